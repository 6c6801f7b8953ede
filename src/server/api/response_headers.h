// The x-* headers of LoRAX, on all routes that generate.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "server/api/adapter_request.h"
#include "server/api/api_context.h"
#include "server/api/foreign_fields.h"
#include "server/api/response_task.h"

namespace lorax {

using Headers = std::vector<std::pair<std::string, std::string>>;

// Those that are known before there is a text, and "x-ignored-fields" if there are any.
// `characters`: of the prompt.
Headers early_headers(const ApiSettings& settings, size_t characters, const AdapterChoice& adapter,
                      const IgnoredFields& ignored);
// Those that count tokens and tell times, in whole milliseconds, of a generation that has ended.
void add_late_headers(Headers& headers, const GenerationEnd& end, const RequestReport& report);

// Code points of UTF-8.
size_t count_characters(std::string_view text);

}  // namespace lorax

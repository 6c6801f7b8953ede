// Prompts as the engine takes them: ids within its limits.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/schedule/generation_service.h"
#include "text/tokenizer.h"

namespace lorax {

// The ids of a text. With `adds_bos`, bos comes in front where the tokenizer adds one and the text
// does not bring its own. `truncate` > 0 keeps the last so many ids, an added bos being one of
// them. Throws ApiError for a text that is too long to encode.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text,
                                   bool adds_bos = true, int64_t truncate = 0);

// The tokens to generate: as asked for, or all that the limits leave. Throws ApiError of field
// `name` if prompt and new tokens are beyond the limits, in LoRAX's words and order.
int64_t fit_new_tokens(int64_t prompt_tokens, std::optional<int64_t> max_new_tokens,
                       const ServiceLimits& limits, std::string_view prompt_name,
                       std::string_view max_name);

}  // namespace lorax

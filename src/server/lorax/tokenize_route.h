// POST "/tokenize".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/api/api_route.h"
#include "server/api/request_fields.h"

namespace lorax {

struct TokenizeBody {
  std::string inputs;
  bool add_special_tokens = true;
};

const FieldTable<TokenizeBody>& tokenize_fields();

void add_tokenize_route(const std::shared_ptr<const ApiContext>& context,
                        std::vector<ApiRoute>& routes);

}  // namespace lorax

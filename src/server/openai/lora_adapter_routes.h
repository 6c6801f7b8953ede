// vLLM's POST /v1/load_lora_adapter and /v1/unload_lora_adapter: names for adapters at run time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/api/api_route.h"
#include "server/api/request_fields.h"

namespace lorax {

struct LoraAdapterBody {
  std::optional<std::string> lora_name;
  std::optional<std::string> lora_path;
  bool load_inplace = false;
};

FieldTable<LoraAdapterBody> load_adapter_fields();
FieldTable<LoraAdapterBody> unload_adapter_fields();

void add_lora_adapter_routes(const std::shared_ptr<const ApiContext>& context,
                             std::vector<ApiRoute>& routes);

}  // namespace lorax

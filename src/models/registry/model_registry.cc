#include "models/registry/model_registry.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include <fmt/ranges.h>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "formats/json_file.h"
#include "formats/printable.h"
#include "models/checkpoint_folder.h"
#include "models/gemma2/definition.h"

namespace lorax {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

struct Entry {
  std::string_view model_type;
  std::unique_ptr<ModelDefinition> (*read)(const json::object&, std::string_view origin, ModelInfo);
};

// The registry. A new architecture is one line here.
constexpr std::array kModels = {Entry{"gemma2", read_gemma2_definition}};

void add_eos_ids(const json::object& object, std::string_view origin, std::vector<int32_t>& ids) {
  const json::value* value = object.if_contains("eos_token_id");
  if (value == nullptr || value->is_null()) return;
  auto add = [&](const json::value& id) {
    const int64_t* number = id.if_int64();
    if (number == nullptr || *number < 0 || *number > INT32_MAX) {
      fail("{}: eos_token_id {} must be a token id or a list of them", origin,
           json::serialize(*value));
    }
    if (std::ranges::find(ids, *number) == ids.end()) ids.push_back(static_cast<int32_t>(*number));
  };
  if (const json::array* list = value->if_array()) {
    for (const json::value& id : *list) add(id);
  } else {
    add(*value);
  }
}

std::optional<DType> read_dtype(const json::object& object, std::string_view origin) {
  for (std::string_view key : {"dtype", "torch_dtype"}) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr || value->is_null()) continue;
    const json::string* name = value->if_string();
    const std::optional<DType> dtype = name != nullptr ? parse_dtype(*name) : std::nullopt;
    if (!dtype || *dtype == DType::kInt32 || *dtype == DType::kInt64) {
      fail("{}: {} is {}; it must be \"float32\", \"bfloat16\" or \"float16\"", origin, key,
           json::serialize(*value));
    }
    return dtype;
  }
  return std::nullopt;
}

// Weights of a quantised checkpoint have other names and meanings than those of the original.
void check_quantization(const json::object& object, std::string_view origin) {
  for (std::string_view key : {"quantization_config", "compression_config"}) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr || value->is_null()) continue;
    const json::object* config = value->if_object();
    if (config != nullptr && config->empty()) continue;
    const json::value* method = config != nullptr ? config->if_contains("quant_method") : nullptr;
    fail(
        "{}: {} says that the checkpoint is quantised ({}); only unquantised weights (float32, "
        "bfloat16, float16) can be served: take the original checkpoint; adapters that were "
        "trained on the quantised one fit it",
        origin, key,
        printable(method != nullptr && method->is_string() ? std::string(method->get_string())
                                                           : json::serialize(*value)));
  }
}

const Entry& find_entry(const json::object& object, std::string_view origin) {
  const json::value* type = object.if_contains("model_type");
  if (type == nullptr || !type->is_string()) {
    fail("{}: model_type is missing; take config.json from the original checkpoint", origin);
  }
  for (const Entry& entry : kModels) {
    if (type->get_string() == entry.model_type) return entry;
  }
  std::vector<std::string_view> known;
  for (const Entry& entry : kModels) known.push_back(entry.model_type);
  fail("{}: model_type {} is unknown; known: {}", origin, json::serialize(*type),
       fmt::join(known, ", "));
}

json::object read_object(const fs::path& file) {
  json::value value = read_json_file(file);
  if (!value.is_object()) fail("{}: must hold a JSON object", file.string());
  return std::move(value.get_object());
}

}  // namespace

std::unique_ptr<ModelDefinition> read_model_definition(const fs::path& path) {
  std::error_code ignored;
  const bool is_directory = !fs::is_regular_file(path, ignored);
  if (is_directory) require_checkpoint(path);
  const fs::path file = is_directory ? path / "config.json" : path;
  const std::string origin = file.string();
  const json::object config = read_object(file);
  const Entry& entry = find_entry(config, origin);
  check_quantization(config, origin);
  ModelInfo info;
  info.checkpoint_dtype = read_dtype(config, origin);
  add_eos_ids(config, origin, info.eos_token_ids);
  const fs::path generation = path / "generation_config.json";
  if (is_directory && fs::exists(generation, ignored)) {
    add_eos_ids(read_object(generation), generation.string(), info.eos_token_ids);
  }
  return entry.read(config, origin, std::move(info));
}

std::unique_ptr<ModelDefinition> preset_model_definition(std::string_view name) {
  return preset_gemma2_definition(name);
}

}  // namespace lorax

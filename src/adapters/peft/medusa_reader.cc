#include "adapters/peft/medusa_reader.h"

#include <fmt/format.h>
#include <boost/json/value.hpp>

#include "adapters/peft/config_reader.h"
#include "base/error.h"
#include "formats/json_file.h"

namespace lorax {
namespace {

// Bounds beyond all published heads.
constexpr int64_t kMaxHeads = 32;
constexpr int64_t kMaxBlocks = 8;

// What transformers writes into any config.json, and `version`, which decides nothing.
constexpr std::string_view kWithoutEffect[] = {"architectures",       "dtype",   "model_type",
                                               "torch_dtype",         "version", "revision",
                                               "transformers_version"};

void check_size(ConfigReader& reader, std::string_view key, int64_t base) {
  if (reader.integer(key, 1, INT64_MAX, base) != base) {
    reader.bad(key, fmt::format("{}, as in the base model", base));
  }
}

}  // namespace

MedusaConfig parse_medusa_config(std::string_view text, int64_t hidden_size, int64_t vocab_size,
                                 std::string_view origin,
                                 std::span<const std::string> ignored_keys) {
  const boost::json::value value = parse_python_json(text, origin);
  if (!value.is_object()) fail("{}: must hold a JSON object", origin);
  ConfigReader reader(value.get_object(), origin);
  MedusaConfig config;
  if (reader.find("medusa_num_heads") == nullptr) {
    reader.bad("medusa_num_heads", fmt::format("an integer from 1 to {}", kMaxHeads));
  }
  config.heads = reader.integer("medusa_num_heads", 1, kMaxHeads, 0);
  config.blocks = reader.integer("medusa_num_layers", 1, kMaxBlocks, 1);
  config.base_model_name_or_path = reader.text("base_model_name_or_path");
  check_size(reader, "hidden_size", hidden_size);
  check_size(reader, "vocab_size", vocab_size);
  for (std::string_view key : kWithoutEffect) reader.find(key);
  reader.check_rest(ignored_keys, config.warnings);
  return config;
}

void plan_medusa(const MedusaConfig& config, int64_t hidden_size, int64_t vocab_size,
                 TensorPlan& tensors, MedusaWeights& medusa) {
  const bool has_outputs =
      config.blocks > 1 || tensors.contains(fmt::format("0.{}.weight", config.blocks));
  medusa.version = has_outputs ? 1 : 2;
  medusa.heads.resize(static_cast<size_t>(config.heads));
  for (size_t i = 0; i < medusa.heads.size(); ++i) {
    MedusaHeadWeights& head = medusa.heads[i];
    const std::string owner = fmt::format("Medusa head {}", i);
    head.blocks.resize(static_cast<size_t>(config.blocks));
    for (size_t j = 0; j < head.blocks.size(); ++j) {
      tensors.claim(fmt::format("{}.{}.linear.weight", i, j), {hidden_size, hidden_size}, owner,
                    &head.blocks[j].weight);
      tensors.claim(fmt::format("{}.{}.linear.bias", i, j), {hidden_size}, owner,
                    &head.blocks[j].bias);
    }
    if (!has_outputs) continue;
    tensors.claim(fmt::format("{}.{}.weight", i, config.blocks), {vocab_size, hidden_size}, owner,
                  &head.output);
  }
}

}  // namespace lorax

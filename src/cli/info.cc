// lorax info: what a checkpoint is, and whether it is whole, without loading it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "cli/commands.h"
#include "cli/options.h"
#include "device/factory/device_factory.h"
#include "models/checkpoint_folder.h"
#include "models/registry/model_registry.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;

struct Options {
  std::string model_id;
  bool as_json = false;
  DeviceFlags device;
};

void run(const Options& options) {
  require_checkpoint(options.model_id);
  const std::unique_ptr<ModelDefinition> definition = read_model_definition(options.model_id);
  const ModelInfo& info = definition->info();
  const SafetensorsCheckpoint checkpoint = SafetensorsCheckpoint::open(options.model_id);
  const CheckpointSource source(checkpoint);
  const DType dtype = options.device.load_options().dtype.value_or(default_dtype(info));
  const uint64_t bytes = check_weights(*definition, source, dtype);
  const KvShape kv{info.num_hidden_layers, info.num_key_value_heads, info.head_dim, dtype};
  json::array eos;
  for (int32_t id : info.eos_token_ids) eos.push_back(id);
  const json::object report = {
      {"model_type", info.model_type},
      {"num_hidden_layers", info.num_hidden_layers},
      {"hidden_size", info.hidden_size},
      {"num_attention_heads", info.num_attention_heads},
      {"num_key_value_heads", info.num_key_value_heads},
      {"head_dim", info.head_dim},
      {"vocab_size", info.vocab_size},
      {"max_position_embeddings", info.max_position_embeddings},
      {"eos_token_ids", eos},
      {"checkpoint_dtype",
       info.checkpoint_dtype ? json::value(name_of(*info.checkpoint_dtype)) : json::value()},
      {"tensors", checkpoint.names().size()},
      {"dtype", name_of(dtype)},
      {"weight_bytes", bytes},
      {"kv_bytes_per_token", kv.bytes_per_token()},
      {"device", make_device(options.device.load_options().device)->describe()}};
  if (options.as_json) {
    fmt::print("{}\n", json::serialize(report));
    return;
  }
  for (const auto& [key, value] : report) {
    fmt::print("{:24} {}\n", std::string_view(key),
               value.is_string() ? std::string(value.get_string()) : json::serialize(value));
  }
}

}  // namespace

void add_info_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "info", "Describe a checkpoint and check its tensors' names, shapes and types");
  auto options = std::make_shared<Options>();
  add_model_flag(*command, options->model_id);
  command->add_flag("--json", options->as_json, "One JSON object");
  options->device.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

// Flags that several commands share, and what they stand for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/App.hpp>

#include "engine/load/loaded_model.h"
#include "text/tokenizer.h"

namespace lorax::cli {

// The environment variable of a flag: "--num-shard" is NUM_SHARD, as LoRAX's launcher has them.
std::string environment_name(std::string_view flag);

// --device, --dtype, --threads, --cpu-isa (which takes effect when it is parsed),
// --cuda-memory-fraction.
struct DeviceFlags {
  std::string device = "cpu";
  std::string dtype;
  int threads = 0;
  double cuda_memory_fraction = 1.0;

  void add_to(CLI::App& command);
  // Throws Error for a dtype that is not float32, bfloat16 or float16.
  LoadOptions load_options() const;
};

// --model-id.
void add_model_flag(CLI::App& command, std::string& model_id);

// --load-format.
void add_load_format_flag(CLI::App& command, std::string& load_format);

// Throws Error if `model_id` is no checkpoint (models/checkpoint_folder.h) or has no tokenizer that
// can be read.
std::unique_ptr<Tokenizer> load_model_tokenizer(const std::string& model_id);

// Loads a checkpoint, or makes random weights in its shape if `load_format` is "dummy"; draws a
// progress line on standard error while a large one loads, if that is a terminal.
LoadedModel load_model(const std::string& model_id, const DeviceFlags& flags,
                       const std::string& load_format = "auto");

// "2,5,9" -> ids. Throws Error that names `flag` for anything else.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& flag);

// Throws Error if the list is empty, an id is outside the vocabulary, or the tokens (plus those to
// generate) are more than the model has positions. `what` names the prompt in the message.
void check_prompt(const std::vector<int32_t>& ids, int64_t to_generate, const ModelInfo& info,
                  const std::string& what);

}  // namespace lorax::cli

#include "cli/options.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <utility>

#include "base/error.h"
#include "base/standard_files.h"
#include "device/instruction_set.h"
#include "models/checkpoint_folder.h"
#include "models/registry/model_registry.h"

namespace lorax::cli {
namespace {

constexpr uint64_t kLargeModel = uint64_t{512} << 20;

// Names that others use of what a model computes in.
constexpr std::array<std::pair<std::string_view, DType>, 8> kDTypeNames = {
    {{"float32", DType::kFloat32},
     {"fp32", DType::kFloat32},
     {"float", DType::kFloat32},
     {"bfloat16", DType::kBFloat16},
     {"bf16", DType::kBFloat16},
     {"float16", DType::kFloat16},
     {"fp16", DType::kFloat16},
     {"half", DType::kFloat16}}};

}  // namespace

std::string environment_name(std::string_view flag) {
  std::string name(flag.substr(flag.find_first_not_of('-')));
  std::ranges::transform(name, name.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::toupper(c));
  });
  return name;
}

void DeviceFlags::add_to(CLI::App& command) {
  command.add_option("--device", device, "Where to run: cpu, cuda or cuda:<index>")
      ->capture_default_str();
  command.add_option(
      "--dtype", dtype,
      "float32, bfloat16 or float16, also fp32, bf16 or fp16 (default: float32 for a "
      "float32 checkpoint, bfloat16 otherwise)");
  command.add_option("--threads", threads, "CPU threads (default: one per core)")
      ->check(CLI::Range(1, 1024));
  command.add_option_function<std::string>(
      "--cpu-isa", [](const std::string& name) { use_instruction_set(name, "--cpu-isa"); },
      fmt::format("Instruction set of the CPU's kernels: {} (default: ${}, or else the last)",
                  fmt::join(instruction_sets(), ", "), kInstructionSetVariable));
  command
      .add_option(
          "--cuda-memory-fraction", cuda_memory_fraction,
          "Share of a GPU's memory that may be taken: what other programs hold of it counts, "
          "too")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
}

LoadOptions DeviceFlags::load_options() const {
  LoadOptions options;
  options.device = {
      .name = device, .threads = threads, .cuda_memory_fraction = cuda_memory_fraction};
  if (!dtype.empty() && dtype != "auto") {
    const auto* named = std::ranges::find(kDTypeNames, std::string_view(dtype),
                                          [](const auto& entry) { return entry.first; });
    if (named == kDTypeNames.end()) fail("--dtype {}: must be float32, bfloat16 or float16", dtype);
    options.dtype = named->second;
  }
  return options;
}

void add_model_flag(CLI::App& command, std::string& model_id) {
  command.add_option("--model-id", model_id, "Directory of a Hugging Face checkpoint")
      ->required()
      ->envname("MODEL_ID");
}

void add_load_format_flag(CLI::App& command, std::string& load_format) {
  command
      .add_option("--load-format", load_format,
                  "auto or safetensors: the checkpoint's weights; dummy: random ones, from "
                  "config.json alone, for benchmarks and planning")
      ->check(CLI::IsMember({"auto", "safetensors", "dummy"}))
      ->capture_default_str();
}

std::unique_ptr<Tokenizer> load_model_tokenizer(const std::string& model_id) {
  if (!has_tokenizer(model_id)) require_checkpoint(model_id);
  return load_tokenizer(model_id);
}

LoadedModel load_model(const std::string& model_id, const DeviceFlags& flags,
                       const std::string& load_format) {
  LoadOptions options = flags.load_options();
  if (isatty(STDERR_FILENO) != 0) {
    options.progress = [last = -1](uint64_t done, uint64_t total) mutable {
      const int percent = static_cast<int>(done * 100 / total);
      if (total < kLargeModel || percent == last) return;
      last = percent;
      print_error(fmt::format("\rloading {:3}% of {:.1f} GB{}", percent,
                              static_cast<double>(total) * 1e-9, percent == 100 ? "\n" : ""));
    };
  }
  require_checkpoint(model_id);
  if (load_format == "dummy") {
    return LoadedModel::with_random_weights(read_model_definition(model_id), options);
  }
  return LoadedModel::from_checkpoint(model_id, options);
}

std::vector<int32_t> parse_ids(const std::string& text, const std::string& flag) {
  std::vector<int32_t> ids;
  const char* end = text.data() + text.size();
  for (const char* at = text.data();; ++at) {
    int32_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (next != end && *next != ',')) {
      fail("{} \"{}\": give token ids separated by commas, such as 2,651,4320", flag, text);
    }
    ids.push_back(id);
    if (next == end) return ids;
    at = next;
  }
}

void check_prompt(const std::vector<int32_t>& ids, int64_t to_generate, const ModelInfo& info,
                  const std::string& what) {
  if (ids.empty()) fail("{} is empty; give at least one token", what);
  for (int32_t id : ids) {
    if (id < 0 || id >= info.vocab_size) {
      fail("{} holds id {}; the model's vocabulary has ids 0 to {}", what, id, info.vocab_size - 1);
    }
  }
  const int64_t length = static_cast<int64_t>(ids.size());
  if (length > info.max_position_embeddings) {
    fail("{} has {} tokens; the model takes at most {}: shorten it", what, length,
         info.max_position_embeddings);
  }
  if (length + to_generate > info.max_position_embeddings) {
    fail(
        "{} has {} tokens and --max-new-tokens is {}; the model takes at most {} in all: shorten "
        "the prompt or generate at most {}",
        what, length, to_generate, info.max_position_embeddings,
        info.max_position_embeddings - length);
  }
}

}  // namespace lorax::cli

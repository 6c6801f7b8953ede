// lorax verify-adapter: whether an adapter fits a model and computes what it should.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "adapters/merge/merged_source.h"
#include "adapters/store/factor_precision.h"
#include "base/error.h"
#include "cli/adapter_options.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/run/model_runner.h"
#include "engine/run/runner_sequence.h"

namespace lorax::cli {
namespace {

// Tokens of the prompt that is compared: any will do, as long as it is always the same.
constexpr int64_t kPromptTokens = 24;
// Logits may differ by this much of the largest: both ways round in float32, in another order.
constexpr double kTolerance = 1e-3;

struct Options {
  std::string model_id;
  std::string adapter_id;
  std::vector<std::string> ignored_adapter_config_keys;
  DeviceFlags device;
};

std::vector<int32_t> fixed_prompt(const ModelInfo& info) {
  std::vector<int32_t> ids;
  const int64_t tokens = std::min(kPromptTokens, info.max_position_embeddings);
  for (int64_t i = 0; i < tokens; ++i) {
    ids.push_back(static_cast<int32_t>((i * 2654435761 + 2) % info.vocab_size));
  }
  return ids;
}

std::vector<float> prompt_logits(LoadedModel& loaded, const AdapterTables* tables, int32_t slot,
                                 int64_t speculative_heads) {
  RunnerSequence sequence{.tokens = fixed_prompt(loaded.info()), .cached = 0, .blocks = {}};
  sequence.adapter = slot;  // of an aLoRA from the first token on, as where it is merged
  int32_t pages = 0;
  take_pages(sequence, 0, KvCache::kBlockSize, pages);
  ModelRunner runner(loaded.device(), loaded.model(),
                     {.max_tokens = sequence.length(),
                      .max_sequences = 1,
                      .max_length = sequence.length(),
                      .max_logits_rows = sequence.length(),
                      .kv_blocks = pages,
                      .max_speculative_heads = speculative_heads},
                     tables);
  const SequenceStep step = next_step(sequence, sequence.length(), SequenceStep::Output::kAllRows);
  const int64_t rows = runner.step({&step, 1});
  const std::span<const float> logits = runner.logits(0, rows);
  return {logits.begin(), logits.end()};
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN stays
  }
  return largest;
}

// The adapter's own logits, and those of the same weights with the adapter merged into them.
void compare(LoadedModel& loaded, const Adapter& adapter, const LoadedAdapters& adapters,
             const std::string& id, const DeviceFlags& flags) {
  const std::vector<float> ours =
      prompt_logits(loaded, &adapters.tables(), adapters.slot(id), adapters.speculative_heads(id));
  const std::vector<float> base = prompt_logits(loaded, nullptr, kNoAdapter, 0);
  fmt::print("changes_logits_by {:.6f}\n", largest_difference(ours, base));
  const bool has_bias =
      std::ranges::any_of(adapter.lora, [](const auto& entry) { return bool{entry.second.bias}; });
  if (has_bias) {
    return fmt::print("merged not compared: a bias of B cannot be merged into a weight\n");
  }
  const DeviceBaseWeights weights(loaded.device(), loaded.model().adapter_modules());
  LoadOptions options = flags.load_options();
  options.dtype = DType::kFloat32;
  LoadedModel merged = LoadedModel::from_source(
      loaded.definition().untied(),
      std::make_unique<MergedSource>(loaded.source(), adapter, loaded.model().adapter_modules(),
                                     weights),
      options);
  const std::vector<float> theirs = prompt_logits(merged, nullptr, kNoAdapter, 0);
  const double difference = largest_difference(ours, theirs);
  float largest = 0.0f;
  for (float logit : theirs) largest = std::max(largest, std::abs(logit));
  fmt::print("differs_from_merged_by {:.6f}\n", difference);
  if (!(difference <= kTolerance * std::max(1.0f, largest))) {
    fail(
        "{}: its logits differ by {} from those of the model with the adapter merged into its "
        "weights; please report this with the adapter's config",
        id, difference);
  }
}

// What serving in 16 bits would make of the factors.
void describe_16_bits(LoadedModel& loaded, const Adapter& adapter) {
  const std::vector<AdapterModule>& modules = loaded.model().adapter_modules();
  const DeviceBaseWeights weights(loaded.device(), modules);
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    const AdapterPrecision precision = choose_precision(
        adapter, modules, dtype, [&](size_t module) { return weights.norm(module); });
    if (!precision.empty()) fmt::print("{}\n", describe_precision(precision, modules, dtype));
  }
}

void run(const Options& options) {
  DeviceFlags flags = options.device;
  flags.dtype = "float32";
  LoadedModel loaded = load_model(options.model_id, flags);
  const LoadedAdapters adapters = load_adapters(loaded, options.model_id, {options.adapter_id},
                                                options.ignored_adapter_config_keys);
  const Adapter adapter = adapters.read(options.adapter_id);
  fmt::print("{}", describe(adapter, loaded.model().adapter_modules()));
  describe_16_bits(loaded, adapter);
  compare(loaded, adapter, adapters, options.adapter_id, flags);
  fmt::print("fits\n");
}

}  // namespace

void add_verify_adapter_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "verify-adapter",
      "Load an adapter, say what it holds, and compare its logits with those of the model with the "
      "adapter merged into its weights, in float32; exit 1 with the reason if it does not fit");
  auto options = std::make_shared<Options>();
  add_model_flag(*command, options->model_id);
  command->add_option("--adapter-id", options->adapter_id, "Directory of a PEFT adapter")
      ->required();
  add_ignored_keys_flag(*command, options->ignored_adapter_config_keys);
  command->add_option("--device", options->device.device, "Where to run: cpu or cuda")
      ->capture_default_str();
  command->add_option("--threads", options->device.threads, "CPU threads (default: one per core)")
      ->check(CLI::Range(1, 1024));
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

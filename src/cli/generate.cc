// lorax generate: text from a prompt, streamed as it comes.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/generator.h"
#include "text/incremental_detokenizer.h"
#include "text/tokenizer.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string model_id;
  std::string prompt;
  std::string input_ids;
  int64_t max_new_tokens = 128;
  SamplingParameters sampling{.temperature = 0.0f};
  bool ignore_eos = false;
  bool as_json = false;
  DeviceFlags device;
};

bool has_tokenizer(const std::filesystem::path& directory) {
  return std::filesystem::exists(directory / "tokenizer.json") ||
         std::filesystem::exists(directory / "tokenizer.model");
}

// The prompt's ids: as given, or the text's with bos in front, unless the text brings its own.
std::vector<int32_t> prompt_ids(const Options& options, const Tokenizer* tokenizer) {
  if (!options.input_ids.empty()) return parse_ids(options.input_ids, "--input-ids");
  std::vector<int32_t> ids = tokenizer->encode(options.prompt);
  if (const std::optional<int32_t> bos = tokenizer->bos_id(); bos && tokenizer->adds_bos()) {
    if (ids.empty() || ids.front() != *bos) ids.insert(ids.begin(), *bos);
  }
  return ids;
}

json::object report(const Options& options, const GenerateRequest& request,
                    const GenerateResult& result, const GenerateTimings& timings,
                    double load_seconds, const Tokenizer* tokenizer) {
  json::array input_ids(request.prompt.begin(), request.prompt.end());
  json::array generated_ids;
  json::array logprobs;
  std::vector<int32_t> ids;
  for (const SampledToken& token : result.tokens) {
    ids.push_back(token.id);
    generated_ids.push_back(token.id);
    logprobs.push_back(token.logprob);
  }
  json::object out;
  if (options.input_ids.empty()) out["prompt"] = options.prompt;
  out["input_ids"] = std::move(input_ids);
  out["generated_ids"] = std::move(generated_ids);
  if (tokenizer != nullptr) out["generated_text"] = tokenizer->decode(ids, true);
  out["logprobs"] = std::move(logprobs);
  out["finish_reason"] = name_of(result.finish_reason);
  const auto rate = [](double count, double seconds) {
    return seconds > 0 ? count / seconds : 0.0;
  };
  out["timings"] = {{"load_seconds", load_seconds},
                    {"prefill_seconds", timings.prefill_seconds},
                    {"prefill_tokens_per_second",
                     rate(static_cast<double>(request.prompt.size()), timings.prefill_seconds)},
                    {"decode_seconds", timings.decode_seconds},
                    {"decode_tokens_per_second",
                     rate(static_cast<double>(timings.decode_steps), timings.decode_seconds)}};
  return out;
}

void run(const Options& options) {
  validate(options.sampling);
  if (options.prompt.empty() == options.input_ids.empty()) {
    fail("give either --prompt or --input-ids, and not an empty one");
  }
  // A prompt of ids needs no tokenizer: text is then left out of the JSON.
  std::unique_ptr<Tokenizer> tokenizer;
  if (options.input_ids.empty() || !options.as_json || has_tokenizer(options.model_id)) {
    tokenizer = load_tokenizer(options.model_id);
  }
  GenerateRequest request{.prompt = prompt_ids(options, tokenizer.get()),
                          .max_new_tokens = options.max_new_tokens,
                          .sampling = options.sampling,
                          .eos_token_ids = {}};

  const Clock::time_point start = Clock::now();
  LoadedModel loaded = load_model(options.model_id, options.device);
  const std::chrono::duration<double> load_time = Clock::now() - start;
  check_prompt(request.prompt, request.max_new_tokens, loaded.info(),
               options.input_ids.empty() ? "--prompt" : "--input-ids");
  if (!options.ignore_eos) request.eos_token_ids = loaded.info().eos_token_ids;

  ModelRunner runner(loaded.device(), loaded.model(), limits_for({&request, 1}));
  TokenSink stream;
  std::unique_ptr<IncrementalDetokenizer> detokenizer;
  if (!options.as_json) {
    detokenizer = std::make_unique<IncrementalDetokenizer>(*tokenizer, true);
    stream = [&](size_t, const SampledToken& token) {
      fmt::print("{}", detokenizer->push(token.id));
      std::fflush(stdout);
    };
  }
  GenerateTimings timings;
  const std::vector<GenerateResult> results = generate(runner, {&request, 1}, stream, &timings);
  if (options.as_json) {
    fmt::print("{}\n", json::serialize(report(options, request, results[0], timings,
                                              load_time.count(), tokenizer.get())));
  } else {
    fmt::print("{}\n", detokenizer->finish());
  }
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Generate text from a prompt");
  auto options = std::make_shared<Options>();
  add_model_flag(*command, options->model_id);
  command->add_option("--prompt", options->prompt,
                      "Text; special tokens such as <start_of_turn> are parsed, bos is added");
  command->add_option("--input-ids", options->input_ids,
                      "Token ids instead of a text, such as 2,5,9; nothing is added");
  command->add_option("--max-new-tokens", options->max_new_tokens, "Tokens to generate at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0 is greedy")
      ->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "Keep the k most likely tokens; 0: all")
      ->capture_default_str();
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "Keep the most likely tokens that together reach this probability")
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "Seed of the random choices")
      ->capture_default_str();
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after an end token");
  command->add_flag("--json", options->as_json,
                    "One JSON object at the end: ids, text, logprobs, timings");
  options->device.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

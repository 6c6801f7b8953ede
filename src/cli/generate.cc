// lorax generate: text from a prompt, streamed as it comes.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "cli/adapter_options.h"
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
  std::vector<std::string> prompts;
  std::vector<std::string> input_ids;
  std::vector<std::string> adapter_ids;
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

// One of the texts to generate: its prompt and its adapter.
struct Job {
  std::string prompt;   // as given: text or ids
  std::string adapter;  // id of LoadedAdapters
};

// Prompts and adapters pair up in their order; one of either goes with all of the other.
std::vector<Job> make_jobs(const Options& options) {
  const std::vector<std::string>& prompts =
      options.input_ids.empty() ? options.prompts : options.input_ids;
  const size_t adapters = options.adapter_ids.size();
  if (prompts.size() > 1 && adapters > 1 && prompts.size() != adapters) {
    fail("there are {} prompts and {} adapters; give as many of both, or one of either",
         prompts.size(), adapters);
  }
  std::vector<Job> jobs;
  for (size_t i = 0; i < std::max(prompts.size(), adapters); ++i) {
    Job& job = jobs.emplace_back();
    job.prompt = prompts[prompts.size() == 1 ? 0 : i];
    if (adapters > 0) job.adapter = adapter_id_of(options.adapter_ids[adapters == 1 ? 0 : i]);
  }
  return jobs;
}

// The prompt's ids: as given, or the text's with bos in front, unless the text brings its own.
std::vector<int32_t> prompt_ids(const std::string& prompt, bool is_ids,
                                const Tokenizer* tokenizer) {
  if (is_ids) return parse_ids(prompt, "--input-ids");
  std::vector<int32_t> ids = tokenizer->encode(prompt);
  if (const std::optional<int32_t> bos = tokenizer->bos_id(); bos && tokenizer->adds_bos()) {
    if (ids.empty() || ids.front() != *bos) ids.insert(ids.begin(), *bos);
  }
  return ids;
}

std::vector<int32_t> ids_of(const GenerateResult& result) {
  std::vector<int32_t> ids;
  for (const SampledToken& token : result.tokens) ids.push_back(token.id);
  return ids;
}

json::object report_of(const Options& options, const Job& job, const GenerateRequest& request,
                       const GenerateResult& result, const Tokenizer* tokenizer) {
  const std::vector<int32_t> ids = ids_of(result);
  json::array logprobs;
  for (const SampledToken& token : result.tokens) logprobs.push_back(token.logprob);
  json::object out;
  if (options.input_ids.empty()) out["prompt"] = job.prompt;
  if (!options.adapter_ids.empty()) {
    out["adapter_id"] = job.adapter.empty() ? json::value() : json::value(job.adapter);
  }
  out["input_ids"] = json::array(request.prompt.begin(), request.prompt.end());
  out["generated_ids"] = json::array(ids.begin(), ids.end());
  if (tokenizer != nullptr) out["generated_text"] = tokenizer->decode(ids, true);
  out["logprobs"] = std::move(logprobs);
  out["finish_reason"] = name_of(result.finish_reason);
  return out;
}

// Of all jobs together.
json::object report_of(const GenerateTimings& timings, double load_seconds,
                       const std::vector<GenerateRequest>& requests,
                       const std::vector<GenerateResult>& results) {
  double prompt_tokens = 0.0;
  double later_tokens = 0.0;  // those that decode steps gave
  for (size_t i = 0; i < requests.size(); ++i) {
    prompt_tokens += static_cast<double>(requests[i].prompt.size());
    later_tokens += static_cast<double>(results[i].tokens.size()) - 1.0;
  }
  const auto rate = [](double count, double seconds) {
    return seconds > 0 ? count / seconds : 0.0;
  };
  return {{"load_seconds", load_seconds},
          {"prefill_seconds", timings.prefill_seconds},
          {"prefill_tokens_per_second", rate(prompt_tokens, timings.prefill_seconds)},
          {"decode_seconds", timings.decode_seconds},
          {"decode_tokens_per_second", rate(later_tokens, timings.decode_seconds)}};
}

// Whole texts, as those of a batch come at the same time.
void print_texts(const std::vector<Job>& jobs, const std::vector<GenerateResult>& results,
                 const Tokenizer& tokenizer) {
  for (size_t i = 0; i < jobs.size(); ++i) {
    const std::string adapter =
        jobs[i].adapter.empty() ? "base model" : std::filesystem::path(jobs[i].adapter).filename();
    fmt::print("{}[{}] {}{}\n", i > 0 ? "\n" : "", adapter, jobs[i].prompt,
               tokenizer.decode(ids_of(results[i]), true));
  }
}

void run(const Options& options) {
  validate(options.sampling);
  if (options.prompts.empty() == options.input_ids.empty()) {
    fail("give either --prompt or --input-ids");
  }
  // A prompt of ids needs no tokenizer: text is then left out of the JSON.
  const bool is_ids = !options.input_ids.empty();
  std::unique_ptr<Tokenizer> tokenizer;
  if (!is_ids || !options.as_json || has_tokenizer(options.model_id)) {
    tokenizer = load_tokenizer(options.model_id);
  }
  const std::vector<Job> jobs = make_jobs(options);
  std::vector<GenerateRequest> requests;
  std::vector<std::string> adapter_ids;
  for (const Job& job : jobs) {
    if (job.prompt.empty()) fail("--prompt is empty; give at least one character");
    requests.push_back({.prompt = prompt_ids(job.prompt, is_ids, tokenizer.get()),
                        .max_new_tokens = options.max_new_tokens,
                        .sampling = options.sampling,
                        .eos_token_ids = {}});
    adapter_ids.push_back(job.adapter);
  }

  const Clock::time_point start = Clock::now();
  LoadedModel loaded = load_model(options.model_id, options.device);
  const LoadedAdapters adapters = load_adapters(loaded, options.model_id, adapter_ids);
  const std::chrono::duration<double> load_time = Clock::now() - start;
  for (size_t i = 0; i < requests.size(); ++i) {
    check_prompt(requests[i].prompt, requests[i].max_new_tokens, loaded.info(),
                 is_ids ? "--input-ids" : "--prompt");
    if (!options.ignore_eos) requests[i].eos_token_ids = loaded.info().eos_token_ids;
    requests[i].adapter = adapters.slot(jobs[i].adapter);
  }

  ModelRunner runner(loaded.device(), loaded.model(), limits_for(requests), &adapters.tables());
  TokenSink stream;
  std::unique_ptr<IncrementalDetokenizer> detokenizer;
  if (!options.as_json && jobs.size() == 1) {
    detokenizer = std::make_unique<IncrementalDetokenizer>(*tokenizer, true);
    stream = [&](size_t, const SampledToken& token) {
      fmt::print("{}", detokenizer->push(token.id));
      std::fflush(stdout);
    };
  }
  GenerateTimings timings;
  const std::vector<GenerateResult> results = generate(runner, requests, stream, &timings);
  if (!options.as_json) {
    if (detokenizer != nullptr) return fmt::print("{}\n", detokenizer->finish());
    print_texts(jobs, results, *tokenizer);
    const json::object rates = report_of(timings, load_time.count(), requests, results);
    return fmt::print("\n{} texts in one batch: {:.0f} tokens/s\n", jobs.size(),
                      rates.at("decode_tokens_per_second").as_double());
  }
  json::array reports;
  for (size_t i = 0; i < jobs.size(); ++i) {
    reports.push_back(report_of(options, jobs[i], requests[i], results[i], tokenizer.get()));
  }
  json::object out;
  if (jobs.size() == 1) {
    out = reports[0].as_object();
  } else {
    out["results"] = std::move(reports);
  }
  out["timings"] = report_of(timings, load_time.count(), requests, results);
  fmt::print("{}\n", json::serialize(out));
}

void add_sampling_options(CLI::App& command, SamplingParameters& sampling) {
  const auto add = [&](const char* flag, auto& value, const char* description) {
    command.add_option(flag, value, description)->capture_default_str();
  };
  add("--temperature", sampling.temperature, "0 is greedy");
  add("--top-k", sampling.top_k, "Keep the k most likely tokens; 0: all");
  add("--top-p", sampling.top_p,
      "Keep the most likely tokens that together reach this probability");
  add("--typical-p", sampling.typical_p,
      "Keep the tokens nearest to the expected surprise that together reach this probability");
  add("--min-p", sampling.min_p, "Keep what is at least this times as likely as the best; 0: all");
  add("--repetition-penalty", sampling.repetition_penalty,
      "Above 1: tokens of prompt and text become less likely");
  add("--frequency-penalty", sampling.frequency_penalty,
      "Lowers a token's logit by this for each time it was generated");
  add("--presence-penalty", sampling.presence_penalty,
      "Lowers a token's logit by this if it was generated");
  add("--seed", sampling.seed, "Seed of the random choices");
  command.add_flag(
      "--watermark", sampling.watermark,
      "Prefer tokens of a list that depends on the token before (Kirchenbauer et al.)");
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Generate text from a prompt");
  auto options = std::make_shared<Options>();
  add_model_flag(*command, options->model_id);
  command
      ->add_option("--prompt", options->prompts,
                   "Text; special tokens such as <start_of_turn> are parsed, bos is added. Give "
                   "it again for more texts: they run as one batch")
      ->allow_extra_args(false);
  command
      ->add_option("--input-ids", options->input_ids,
                   "Token ids instead of a text, such as 2,5,9; nothing is added")
      ->allow_extra_args(false);
  command
      ->add_option("--adapter-id", options->adapter_ids,
                   "Directory of a PEFT adapter, or __base_model__. Give it again for more: "
                   "prompts and adapters pair up, one of either goes with all of the other")
      ->allow_extra_args(false);
  command->add_option("--max-new-tokens", options->max_new_tokens, "Tokens to generate at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  add_sampling_options(*command, options->sampling);
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after an end token");
  command->add_flag("--json", options->as_json,
                    "One JSON object at the end: ids, text, logprobs, timings; of several texts a "
                    "list under \"results\"");
  options->device.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

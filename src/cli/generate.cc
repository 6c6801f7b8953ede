// lorax generate: text from a prompt, streamed as it comes.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "base/memory_info.h"
#include "cli/adapter_options.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/engine.h"
#include "engine/schedule/block_allocator.h"
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
  std::vector<std::string> ignored_adapter_config_keys;
  int64_t max_new_tokens = 128;
  SamplingParameters sampling{.temperature = 0.0f};
  bool ignore_eos = false;
  bool as_json = false;
  DeviceFlags device;
  std::string load_format = "auto";
};

// One of the texts to generate: its prompt and its adapter.
struct Job {
  std::string prompt;   // as given: text or ids
  std::string adapter;  // as of adapter_id_of()
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

// What a request gave.
struct Result {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  GenerationEnd end;
};

// Collects what all requests give; streams the texts it is told to.
class Results {
 public:
  explicit Results(size_t requests) : results_(requests), left_(requests) {}

  // The sink of one request. The results must outlive it.
  std::shared_ptr<GenerationSink> sink(size_t request, bool streams) {
    return std::make_shared<Sink>(*this, results_[request], streams);
  }
  // Blocks until all have ended.
  const std::vector<Result>& wait() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return left_ == 0; });
    return results_;
  }

 private:
  class Sink final : public GenerationSink {
   public:
    Sink(Results& all, Result& result, bool streams)
        : all_(all), result_(result), streams_(streams) {}
    void on_prompt(std::vector<TokenInfo>) override {}
    void on_token(GeneratedToken token) override {
      result_.ids.push_back(token.token.id);
      result_.logprobs.push_back(token.token.logprob);
      print(token.delta);
    }
    void on_end(GenerationEnd end) override {
      print(end.delta);
      result_.end = std::move(end);
      const std::lock_guard lock(all_.mutex_);
      if (--all_.left_ == 0) all_.ended_.notify_one();
    }

   private:
    void print(const std::string& text) const {
      if (!streams_) return;
      fmt::print("{}", text);
      std::fflush(stdout);
    }

    Results& all_;
    Result& result_;
    bool streams_;
  };

  std::vector<Result> results_;
  std::mutex mutex_;
  std::condition_variable ended_;
  size_t left_;
};

json::object report_of(const Options& options, const Job& job, const GenerationRequest& request,
                       const Result& result, const Tokenizer* tokenizer) {
  json::object out;
  if (options.input_ids.empty()) out["prompt"] = job.prompt;
  if (!options.adapter_ids.empty()) {
    out["adapter_id"] = job.adapter.empty() ? json::value() : json::value(job.adapter);
  }
  out["input_ids"] = json::array(request.prompt.begin(), request.prompt.end());
  out["generated_ids"] = json::array(result.ids.begin(), result.ids.end());
  if (tokenizer != nullptr) out["generated_text"] = tokenizer->decode(result.ids, true);
  out["logprobs"] = json::array(result.logprobs.begin(), result.logprobs.end());
  out["finish_reason"] = name_of(result.end.reason);
  return out;
}

// Of all jobs together: until the first step, from there until all have their first token, from
// there to the end.
json::object report_of(double load_seconds, const std::vector<Result>& results) {
  using Seconds = std::chrono::duration<double>;
  double start = std::numeric_limits<double>::infinity();
  double first_tokens = 0.0;
  double end = 0.0;
  double prompt_tokens = 0.0;
  double later_tokens = 0.0;
  for (const Result& result : results) {
    const double queued = Seconds(result.end.queue_time).count();
    const double first_token = queued + Seconds(result.end.prefill_time).count();
    start = std::min(start, queued);
    first_tokens = std::max(first_tokens, first_token);
    end = std::max(end, first_token + Seconds(result.end.decode_time).count());
    prompt_tokens += static_cast<double>(result.end.prompt_tokens);
    later_tokens += static_cast<double>(result.ids.size()) - 1.0;
  }
  const auto rate = [](double count, double seconds) {
    return seconds > 0 ? count / seconds : 0.0;
  };
  return {{"load_seconds", load_seconds + start},
          {"prefill_seconds", first_tokens - start},
          {"prefill_tokens_per_second", rate(prompt_tokens, first_tokens - start)},
          {"decode_seconds", end - first_tokens},
          {"decode_tokens_per_second", rate(later_tokens, end - first_tokens)}};
}

// Whole texts, as those of a batch come at the same time.
void print_texts(const std::vector<Job>& jobs, const std::vector<Result>& results,
                 const Tokenizer& tokenizer) {
  for (size_t i = 0; i < jobs.size(); ++i) {
    const std::string adapter =
        jobs[i].adapter.empty() ? "base model" : std::filesystem::path(jobs[i].adapter).filename();
    fmt::print("{}[{}] {}{}\n", i > 0 ? "\n" : "", adapter, jobs[i].prompt,
               tokenizer.decode(results[i].ids, true));
  }
}

// An engine that runs all requests at once.
EngineOptions engine_options(const Options& options,
                             const std::vector<GenerationRequest>& requests) {
  EngineOptions out;
  out.max_concurrent_requests = static_cast<int64_t>(requests.size());
  out.max_running_sequences = out.max_concurrent_requests;
  out.base_name = options.model_id;
  out.ignored_adapter_config_keys = options.ignored_adapter_config_keys;
  out.on_warning = print_warning;
  std::set<std::string> adapters;
  for (const GenerationRequest& request : requests) {
    const int64_t prompt = static_cast<int64_t>(request.prompt.size());
    const int64_t length = prompt + request.max_new_tokens;
    out.max_total_tokens = std::max(out.max_total_tokens, length);
    out.max_input_tokens = std::max(out.max_input_tokens, prompt);
    out.kv_blocks += pages_for(length, KvCache::kBlockSize);
    adapters.insert(request.adapter);
  }
  // What admission leaves for running sequences to grow into.
  out.kv_blocks += out.max_running_sequences;
  out.adapter_slots = static_cast<int>(adapters.size());
  // All of them are wanted at once, so what is free is theirs.
  if (adapters == std::set<std::string>{""}) out.adapter_bytes = 0;
  out.adapter_host_bytes = available_memory_bytes();
  return out;
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
    tokenizer = load_model_tokenizer(options.model_id);
  }
  const std::vector<Job> jobs = make_jobs(options);
  std::vector<GenerationRequest> requests;
  for (const Job& job : jobs) {
    if (job.prompt.empty()) fail("--prompt is empty; give at least one character");
    GenerationRequest& request = requests.emplace_back();
    request.prompt = prompt_ids(job.prompt, is_ids, tokenizer.get());
    request.adapter = job.adapter;
    request.sampling = options.sampling;
    request.max_new_tokens = options.max_new_tokens;
  }

  const Clock::time_point start = Clock::now();
  LoadedModel loaded = load_model(options.model_id, options.device, options.load_format);
  for (GenerationRequest& request : requests) {
    check_prompt(request.prompt, request.max_new_tokens, loaded.info(),
                 is_ids ? "--input-ids" : "--prompt");
    if (!options.ignore_eos) request.eos_token_ids = loaded.info().eos_token_ids;
  }
  Results collected(jobs.size());
  Engine engine(loaded, tokenizer.get(), engine_options(options, requests));
  const std::chrono::duration<double> load_time = Clock::now() - start;
  const bool streams = !options.as_json && jobs.size() == 1;
  for (size_t i = 0; i < requests.size(); ++i) {
    engine.submit(requests[i], collected.sink(i, streams));
  }
  const std::vector<Result>& results = collected.wait();
  for (const Result& result : results) {
    if (result.end.reason == FinishReason::kFailed) throw Error(result.end.error);
  }
  const json::object timings = report_of(load_time.count(), results);
  if (!options.as_json) {
    if (streams) return fmt::print("\n");
    print_texts(jobs, results, *tokenizer);
    return fmt::print("\n{} texts in one batch: {:.0f} tokens/s\n", jobs.size(),
                      timings.at("decode_tokens_per_second").as_double());
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
  out["timings"] = timings;
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
  add_ignored_keys_flag(*command, options->ignored_adapter_config_keys);
  command->add_option("--max-new-tokens", options->max_new_tokens, "Tokens to generate at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  add_sampling_options(*command, options->sampling);
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after an end token");
  command->add_flag("--json", options->as_json,
                    "One JSON object at the end: ids, text, logprobs, timings; of several texts a "
                    "list under \"results\"");
  options->device.add_to(*command);
  add_load_format_flag(*command, options->load_format);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

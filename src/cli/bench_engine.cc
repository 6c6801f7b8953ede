#include "cli/bench_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <latch>
#include <memory>
#include <mutex>
#include <random>
#include <semaphore>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "engine/engine.h"
#include "engine/schedule/block_allocator.h"

namespace lorax::cli {
namespace {

using Clock = std::chrono::steady_clock;

double to_seconds(Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (double value : values) sum += value;
  return values.empty() ? 0.0 : sum / static_cast<double>(values.size());
}

// Of one round. Texts are not kept.
class Round {
 public:
  Round(int64_t requests, int64_t at_once) : left_(requests), places_(at_once) {}

  // Of the next request; waits while as many as may run at once have not ended.
  std::shared_ptr<GenerationSink> next_sink() {
    places_.acquire();
    return std::make_shared<Sink>(*this);
  }
  // So many requests will not come.
  void skip(int64_t requests) { left_.count_down(requests); }
  // Throws Error if a request failed.
  void wait() {
    left_.wait();
    const std::lock_guard lock(mutex_);
    if (!error_.empty()) fail("a request failed: {}", error_);
  }

 private:
  class Sink final : public GenerationSink {
   public:
    explicit Sink(Round& round) : round_(round) {}
    void on_prompt(std::vector<TokenInfo>) override {}
    void on_token(GeneratedToken) override {}
    void on_end(GenerationEnd end) override {
      if (end.reason != FinishReason::kLength) {
        const std::lock_guard lock(round_.mutex_);
        round_.error_ = end.error.empty() ? "it ended early" : end.error;
      }
      round_.places_.release();
      round_.left_.count_down();
    }

   private:
    Round& round_;
  };

  std::latch left_;
  std::counting_semaphore<> places_;
  std::mutex mutex_;
  std::string error_;
};

std::vector<std::string> adapters_in(const std::string& directory, int64_t count) {
  std::vector<std::string> paths;
  if (count == 0) return paths;
  if (!std::filesystem::is_directory(directory)) {
    fail("--engine with --adapters {}: give --adapter-dir, a directory that holds adapters", count);
  }
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.is_directory()) paths.push_back(entry.path().string());
  }
  if (std::ssize(paths) < count) {
    fail("--adapters {}: {} holds {} adapters", count, directory, paths.size());
  }
  std::ranges::sort(paths);
  paths.resize(static_cast<size_t>(count));
  return paths;
}

class Case {
 public:
  Case(LoadedModel& model, const EngineBenchOptions& options, int64_t batch, int64_t prompt,
       int64_t adapters, const Interrupt& interrupt)
      : model_(model),
        options_(options),
        interrupt_(interrupt),
        batch_(batch),
        prompt_(prompt),
        adapters_(adapters_in(options.adapter_dir, adapters)) {
    std::vector<double> weights;
    for (size_t i = 0; i < adapters_.size(); ++i) {
      weights.push_back(std::pow(static_cast<double>(i + 1), -options.zipf));
    }
    shares_ = std::discrete_distribution<size_t>(weights.begin(), weights.end());
  }

  // None if it was interrupted before a round was whole.
  std::optional<EngineMeasurement> run() {
    EngineMeasurement m{.batch = batch_, .prompt = prompt_, .adapters = std::ssize(adapters_)};
    std::vector<double> rates;
    {
      Engine engine(model_, nullptr, engine_options());
      m.overlap = engine.plan().overlap;
      // To warm up, and so that each adapter is in host memory.
      run_round(engine, std::max(batch_, std::ssize(adapters_)), /*in_turns=*/true);
      keeps_reports_ = true;
      const int64_t requests = options_.requests > 0 ? options_.requests : batch_;
      for (int round = 0; round < options_.repeat; ++round) {
        const double seconds = run_round(engine, requests, /*in_turns=*/options_.zipf < 0.0);
        if (interrupt_.has_come()) break;
        rates.push_back(static_cast<double>(requests * options_.generate) / seconds);
      }
    }  // the last step's report comes after its request's end
    if (rates.empty()) return std::nullopt;
    std::vector<double> seconds, host_seconds, forward_seconds, sampling_seconds, idle_seconds;
    for (const StepReport& report : reports_) {
      if (report.sequences != batch_ || report.tokens != batch_) continue;
      seconds.push_back(to_seconds(report.time));
      host_seconds.push_back(to_seconds(report.time - report.times.wait));
      forward_seconds.push_back(to_seconds(report.times.device_forward));
      sampling_seconds.push_back(to_seconds(report.times.device_sampling));
      idle_seconds.push_back(to_seconds(report.times.device_idle));
    }
    m.seconds = median(seconds);
    m.host_seconds = median(host_seconds);
    m.forward_seconds = median(forward_seconds);
    m.sampling_seconds = median(sampling_seconds);
    m.idle_seconds = median(idle_seconds);
    if (!seconds.empty()) m.tokens_per_second = static_cast<double>(batch_) / mean(seconds);
    m.round_tokens_per_second = median(rates);
    return m;
  }

 private:
  EngineOptions engine_options() {
    EngineOptions engine;
    engine.max_concurrent_requests = 2 * batch_;  // one counts until after its end
    engine.max_running_sequences = batch_;
    engine.max_total_tokens = prompt_ + options_.generate;
    engine.prefix_cache = false;
    engine.kv_blocks = batch_ * pages_for(engine.max_total_tokens, KvCache::kBlockSize);
    if (adapters_.empty()) engine.adapter_bytes = 0;
    engine.overlap = options_.overlap;
    engine.measures_device = true;
    engine.on_step = [this](const StepReport& report) {
      if (keeps_reports_) reports_.push_back(report);
    };
    return engine;
  }

  // Adapters take turns over the requests, or have their shares of them. Returns its seconds. After
  // an interrupt no more requests come.
  double run_round(Engine& engine, int64_t requests, bool in_turns) {
    Round round(requests, batch_);
    std::uniform_int_distribution<int32_t> ids(0,
                                               static_cast<int32_t>(model_.info().vocab_size - 1));
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < requests; ++i) {
      if (interrupt_.has_come()) {
        round.skip(requests - i);
        break;
      }
      GenerationRequest request;
      for (int64_t j = 0; j < prompt_; ++j) request.prompt.push_back(ids(random_));
      if (!adapters_.empty()) {
        request.adapter =
            adapters_[in_turns ? static_cast<size_t>(i) % adapters_.size() : shares_(random_)];
      }
      request.sampling.temperature = 0.0f;
      request.max_new_tokens = options_.generate;
      const auto submitted = engine.submit(std::move(request), round.next_sink());
      LORAX_CHECK(submitted.admission == GenerationService::Admission::kAccepted);
    }
    round.wait();
    return to_seconds(Clock::now() - start);
  }

  LoadedModel& model_;
  const EngineBenchOptions& options_;
  const Interrupt& interrupt_;
  const int64_t batch_;
  const int64_t prompt_;
  const std::vector<std::string> adapters_;
  std::discrete_distribution<size_t> shares_;  // of the adapters
  std::atomic<bool> keeps_reports_ = false;
  std::vector<StepReport> reports_;  // of the engine's thread while it runs
  std::mt19937 random_{1};
};

boost::json::object to_json(const EngineMeasurement& m) {
  return {{"phase", "engine"},
          {"batch", m.batch},
          {"prompt", m.prompt},
          {"adapters", m.adapters},
          {"overlap", m.overlap},
          {"ms_per_step", m.seconds * 1e3},
          {"host_ms_per_step", m.host_seconds * 1e3},
          {"forward_ms_per_step", m.forward_seconds * 1e3},
          {"sampling_ms_per_step", m.sampling_seconds * 1e3},
          {"idle_ms_per_step", m.idle_seconds * 1e3},
          {"idle_share", m.seconds > 0.0 ? m.idle_seconds / m.seconds : 0.0},
          {"tokens_per_s", m.tokens_per_second},
          {"round_tokens_per_s", m.round_tokens_per_second}};
}

std::string table_header() {
  return fmt::format("{:>6} {:>7} {:>8} {:>8} {:>10} {:>8} {:>8} {:>6} {:>10} {:>15}", "batch",
                     "prompt", "adapters", "overlap", "ms/step", "host ms", "idle ms", "idle",
                     "tokens/s", "round tokens/s");
}

std::string table_row(const EngineMeasurement& m) {
  return fmt::format(
      "{:>6} {:>7} {:>8} {:>8} {:>10.3f} {:>8.3f} {:>8.3f} {:>5.1f}% {:>10.1f} {:>15.1f}", m.batch,
      m.prompt, m.adapters, m.overlap ? "yes" : "no", m.seconds * 1e3, m.host_seconds * 1e3,
      m.idle_seconds * 1e3, m.seconds > 0.0 ? m.idle_seconds / m.seconds * 100 : 0.0,
      m.tokens_per_second, m.round_tokens_per_second);
}

}  // namespace

void bench_engine(LoadedModel& model, const EngineBenchOptions& options, BenchReport& report,
                  const Interrupt& interrupt) {
  report.say(table_header());
  for (int64_t batch : options.batches) {
    for (int64_t prompt : options.prompts) {
      for (int64_t adapters : options.adapters) {
        if (interrupt.has_come()) return;
        report.progress(fmt::format("batch {}, prompt {}, adapters {}", batch, prompt, adapters));
        const std::optional<EngineMeasurement> measured =
            Case(model, options, batch, prompt, adapters, interrupt).run();
        if (measured) report.add(table_row(*measured), to_json(*measured));
      }
    }
  }
}

}  // namespace lorax::cli

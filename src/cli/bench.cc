// lorax bench: speed of a shape with random weights, beside what this machine's memory allows.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <set>
#include <vector>

#include <boost/json/object.hpp>

#include "base/core_count.h"
#include "base/error.h"
#include "cli/bench_adapters.h"
#include "cli/bench_engine.h"
#include "cli/bench_measurement.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/device_rates.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/read_bandwidth.h"
#include "engine/run/model_runner.h"
#include "engine/run/runner_sequence.h"
#include "engine/schedule/block_allocator.h"
#include "models/registry/model_registry.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

// Buffers that a probe of the bandwidth reads have at least these bytes.
constexpr size_t kProbeBytes = size_t{64} << 10;
// Of one step; more would need more workspace than is left beside long caches.
constexpr int64_t kMostTokens = 16384;
// The bandwidth of a shared machine changes by the second, so it is measured between few steps.
constexpr int64_t kStepsPerProbe = 4;

struct Options {
  std::string shape = "gemma2-2b";
  std::vector<int64_t> prompts = {512};
  std::vector<int64_t> batches = {1};
  std::vector<int64_t> adapters = {0};
  int64_t rank = 16;
  std::vector<std::string> targets = {"all"};
  int64_t generate = 32;
  int repeat = 3;
  bool as_json = false;
  bool engine = false;
  std::string adapter_dir;  // of the engine, as what follows
  double zipf = -1.0;
  int64_t requests = 0;
  std::string overlap = "auto";
  DeviceFlags device;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::unique_ptr<ModelDefinition> read_shape(const std::string& shape) {
  if (std::filesystem::exists(shape)) return read_model_definition(shape);
  return preset_model_definition(shape);
}

class Bench {
 public:
  Bench(const Options& options, BenchReport& report, const Interrupt& interrupt)
      : options_(options),
        report_(report),
        interrupt_(interrupt),
        loaded_(LoadedModel::with_random_weights(read_shape(options.shape),
                                                 options.device.load_options())),
        pool_(options.device.threads > 0 ? options.device.threads : usable_cores()) {}

  // Every case, until it is interrupted.
  void run() {
    if (!on_host()) peak_ = matmul_rate(loaded_.device());
    for (int64_t batch : options_.batches) {
      for (int64_t prompt : options_.prompts) {
        std::set<int64_t> counts;  // a batch has no more adapters than sequences
        for (int64_t adapters : options_.adapters) counts.insert(std::min(adapters, batch));
        for (int64_t adapters : counts) {
          if (!interrupt_.has_come()) run_case(batch, prompt, adapters);
        }
      }
    }
  }

  LoadedModel& loaded() { return loaded_; }
  // TFLOP/s of a large product, P; 0 where it was not measured.
  double peak() const { return peak_; }
  // Whether the device's memory is the host's own.
  bool on_host() const { return loaded_.device().memory_is_host(); }
  // Bytes of weights that one step reads: every product's matrix once.
  double step_bytes() const {
    return static_cast<double>(loaded_.info().multiply_adds_per_token) *
           static_cast<double>(size_of(loaded_.dtype()));
  }

  // Where the host cannot read the weights: that of copying the largest.
  double copy_bandwidth() {
    const Buffer& largest = *std::ranges::max_element(loaded_.weight_buffers(), {}, &Buffer::bytes);
    if (copy_.data() == nullptr) {
      copy_ = Buffer(loaded_.device(), std::min(largest.bytes(), size_t{1} << 30));
    }
    return copy_rate(loaded_.device(), copy_.data(), largest.data(), copy_.bytes());
  }

 private:
  // Of the weights themselves: memory is not equally fast everywhere, so only where they lie tells
  // what reading them can reach. 0 where the host cannot read them.
  double probe_bandwidth() {
    if (!on_host()) return copy_bandwidth();
    double seconds = 0.0;
    double bytes = 0.0;
    for (const Buffer& buffer : loaded_.weight_buffers()) {
      if (buffer.bytes() < kProbeBytes) continue;
      bytes += static_cast<double>(buffer.bytes());
      seconds += static_cast<double>(buffer.bytes()) * 1e-9 /
                 read_bandwidth(pool_, buffer.data(), buffer.bytes());
    }
    return bytes / seconds * 1e-9;
  }

  // Adapters take turns over the sequences.
  std::vector<RunnerSequence> make_sequences(int64_t batch, int64_t prompt, int64_t adapters) {
    std::vector<RunnerSequence> sequences;
    int32_t next_page = 0;
    uint64_t state = 12345;
    for (int64_t b = 0; b < batch; ++b) {
      RunnerSequence sequence;
      for (int64_t i = 0; i < prompt; ++i) sequence.tokens.push_back(next_token(state));
      take_pages(sequence, options_.generate, KvCache::kBlockSize, next_page);
      if (adapters > 0) sequence.adapter = static_cast<int32_t>(b % adapters);
      sequences.push_back(std::move(sequence));
    }
    return sequences;
  }

  int32_t next_token(uint64_t& state) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(loaded_.info().vocab_size));
  }

  // Asks for one step over all pending tokens of every sequence and for the logits of their last
  // rows, which stay on the device; a prefill of very many tokens is several steps. Returns the
  // seconds until the host was free.
  double ask_for_step(ModelRunner& runner, std::vector<RunnerSequence>& sequences) {
    std::vector<SequenceStep> steps;
    const auto ask = [&] {
      const int64_t rows = runner.step(steps);
      runner.device_logits(0, rows);
      steps.clear();
    };
    const Clock::time_point start = Clock::now();
    int64_t tokens = 0;
    for (const RunnerSequence& sequence : sequences) {
      if (tokens + sequence.pending() > runner.limits().max_tokens) {
        ask();
        tokens = 0;
      }
      steps.push_back(next_step(sequence, sequence.pending()));
      tokens += sequence.pending();
    }
    ask();
    const std::chrono::duration<double> elapsed = Clock::now() - start;
    uint64_t state = static_cast<uint64_t>(sequences.front().length());
    for (RunnerSequence& sequence : sequences) {
      sequence.cached = sequence.length();
      sequence.tokens.push_back(next_token(state));
    }
    return elapsed.count();
  }

  // What the steps of one phase took, each beside the bandwidth just before and after.
  struct Samples {
    std::vector<double> seconds;
    std::vector<double> host_seconds;
    std::vector<double> device_seconds;
    std::vector<double> bandwidths;
    std::vector<double> ratios;
  };

  // `count` steps between two probes of the bandwidth. Returns the last one's seconds.
  double timed_steps(ModelRunner& runner, std::vector<RunnerSequence>& sequences, int64_t count,
                     Samples& samples, bool keep) {
    std::vector<double> seconds, host_seconds;
    const double before = probe_bandwidth();
    for (int64_t i = 0; i < count; ++i) {
      const Clock::time_point start = Clock::now();
      host_seconds.push_back(ask_for_step(runner, sequences));
      loaded_.device().synchronize();
      seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    const double bandwidth = (before + probe_bandwidth()) / 2;
    for (size_t i = 0; keep && i < seconds.size(); ++i) {
      samples.seconds.push_back(seconds[i]);
      samples.host_seconds.push_back(host_seconds[i]);
      samples.bandwidths.push_back(bandwidth);
      samples.ratios.push_back(bandwidth > 0.0 ? step_bytes() / seconds[i] * 1e-9 / bandwidth
                                               : 0.0);
    }
    return seconds.back();
  }

  // `count` steps in a row, none of which waits for the host.
  void queued_steps(ModelRunner& runner, std::vector<RunnerSequence>& sequences, int64_t count,
                    Samples& samples, bool keep) {
    const std::unique_ptr<DeviceEvent> begin = loaded_.device().make_event();
    const std::unique_ptr<DeviceEvent> end = loaded_.device().make_event();
    ask_for_step(runner, sequences);  // fills the queue
    begin->record();
    for (int64_t i = 1; i < count; ++i) ask_for_step(runner, sequences);
    end->record();
    const double seconds = end->seconds_since(*begin);
    if (keep && count > 1)
      samples.device_seconds.push_back(seconds / static_cast<double>(count - 1));
  }

  Measurement measure(std::string phase, int64_t batch, int64_t prompt, int64_t tokens,
                      const BenchAdapters& adapters, const ModelRunner& runner,
                      const Samples& samples) const {
    const ModelInfo& info = loaded_.info();
    Measurement m{.phase = std::move(phase), .batch = batch, .prompt = prompt};
    m.adapters = adapters.count();
    m.adapter_gb =
        static_cast<double>(adapters.bytes_each()) * static_cast<double>(adapters.count()) * 1e-9;
    // Only the last row of each sequence goes through the head.
    const double head = static_cast<double>(info.hidden_size * info.vocab_size);
    const double multiply_adds =
        (static_cast<double>(info.multiply_adds_per_token) - head) * static_cast<double>(tokens) +
        head * static_cast<double>(batch);
    m.seconds = median(samples.seconds);
    m.host_seconds = median(samples.host_seconds);
    m.device_seconds = samples.device_seconds.empty() ? m.seconds : median(samples.device_seconds);
    m.graphs = runner.graph_stats();
    m.tokens_per_second = static_cast<double>(tokens) / m.seconds;
    m.weight_gb_per_second = step_bytes() / m.seconds * 1e-9;
    m.tflop_per_second = 2.0 * multiply_adds / m.seconds * 1e-12;
    m.attention_tflop_per_second = 2.0 * static_cast<double>(batch) *
                                   attention_multiply_adds(tokens / batch, prompt) / m.seconds *
                                   1e-12;
    m.read_gb_per_second = median(samples.bandwidths);
    m.ratio_to_read = median(samples.ratios);
    if (tokens == batch) {
      const int64_t context = prompt + options_.generate / 2;  // of the middle step
      m.kv_gb = static_cast<double>(batch * context) *
                static_cast<double>(loaded_.model().kv_shape().bytes_per_token()) * 1e-9;
    }
    m.ratio_of_bytes = m.ratio_to_read * (1.0 + (m.kv_gb + m.adapter_gb) * 1e9 / step_bytes());
    return m;
  }

  // Of one sequence in a prefill, which has as many rows as the prompt, or in the middle decode
  // step.
  double attention_multiply_adds(int64_t rows, int64_t prompt) const {
    const int64_t end = rows == prompt ? prompt : prompt + options_.generate / 2 + 1;
    return loaded_.info().attention_multiply_adds(end - rows, end);
  }

  void add(const Measurement& m) { report_.add(measurement_row(m, peak_), to_json(m, peak_)); }

  // Of a case that is interrupted, reports the rounds that are whole.
  void run_case(int64_t batch, int64_t prompt, int64_t adapter_count) {
    const int64_t length = prompt + options_.generate;
    if (length > loaded_.info().max_position_embeddings) {
      fail("--prompt {} and --generate {}: the model takes at most {} tokens in all", prompt,
           options_.generate, loaded_.info().max_position_embeddings);
    }
    const BenchAdapters adapters(loaded_, adapter_count, options_.rank, options_.targets);
    ModelRunner runner(loaded_.device(), loaded_.model(),
                       {.max_tokens = std::min(batch * prompt, std::max(prompt, kMostTokens)),
                        .max_sequences = batch,
                        .max_length = length,
                        .max_logits_rows = batch,
                        .kv_blocks = batch * pages_for(length, KvCache::kBlockSize)},
                       &adapters.tables());
    Samples prefills;
    Samples decodes;
    for (int round = -1; round < options_.repeat; ++round) {  // the first warms up
      if (interrupt_.has_come()) break;
      report_.progress(fmt::format(
          "batch {}, prompt {}, adapters {}: {}", batch, prompt, adapter_count,
          round < 0 ? "warming up" : fmt::format("round {} of {}", round + 1, options_.repeat)));
      std::vector<RunnerSequence> sequences = make_sequences(batch, prompt, adapter_count);
      const double prefill = timed_steps(runner, sequences, 1, prefills, round >= 0);
      bool queue = false;  // every other time, where the device works beside the host
      for (int64_t left = options_.generate - 1; left > 0; left -= kStepsPerProbe) {
        if (interrupt_.has_come()) break;
        const int64_t count = std::min(left, kStepsPerProbe);
        if (queue) {
          queued_steps(runner, sequences, count, decodes, round >= 0);
        } else {
          timed_steps(runner, sequences, count, decodes, round >= 0);
        }
        queue = !queue && !on_host();
      }
      if (options_.repeat > 1 && round < 0 && prefill > 30.0) ++round;  // warm enough
    }
    if (!prefills.seconds.empty()) {
      add(measure("prefill", batch, prompt, batch * prompt, adapters, runner, prefills));
    }
    if (!decodes.seconds.empty()) {
      add(measure("decode", batch, prompt, batch, adapters, runner, decodes));
    }
  }

  const Options& options_;
  BenchReport& report_;
  double peak_ = 0.0;
  const Interrupt& interrupt_;
  LoadedModel loaded_;
  ThreadPool pool_;  // of the bandwidth's measurement
  Buffer copy_;      // likewise
};

EngineBenchOptions engine_options(const Options& options) {
  EngineBenchOptions engine;
  engine.batches = options.batches;
  engine.prompts = options.prompts;
  engine.adapters = options.adapters;
  engine.adapter_dir = options.adapter_dir;
  engine.zipf = options.zipf;
  engine.requests = options.requests;
  engine.generate = options.generate;
  engine.repeat = options.repeat;
  if (options.overlap != "auto") engine.overlap = options.overlap == "on";
  return engine;
}

// Before the weights are made, which takes a while.
void announce(const Options& options, BenchReport& report) {
  report.say(fmt::format("{}{}: prompt {}, batch {}, adapters {}, {} tokens each, {} rounds",
                         options.shape, options.engine ? ", the engine" : "",
                         fmt::join(options.prompts, ","), fmt::join(options.batches, ","),
                         fmt::join(options.adapters, ","), options.generate, options.repeat));
  report.progress("making random weights");
}

json::object describe(const Options& options, LoadedModel& loaded, BenchReport& report) {
  const std::string device = loaded.device().describe();
  report.say(fmt::format("{} on {}, {:.2f} GB of weights", name_of(loaded.dtype()), device,
                         static_cast<double>(loaded.weight_bytes()) * 1e-9));
  return {{"shape", options.shape},
          {"dtype", name_of(loaded.dtype())},
          {"device", device},
          {"weight_bytes", loaded.weight_bytes()}};
}

void run_engine(const Options& options, BenchReport& report, const Interrupt& interrupt) {
  LoadedModel loaded =
      LoadedModel::with_random_weights(read_shape(options.shape), options.device.load_options());
  json::object about = describe(options, loaded, report);
  bench_engine(loaded, engine_options(options), report, interrupt);
  report.finish(std::move(about), interrupt.has_come());
}

void run_steps(const Options& options, BenchReport& report, const Interrupt& interrupt) {
  Bench bench(options, report, interrupt);
  json::object about = describe(options, bench.loaded(), report);
  report.say(measurement_header());
  bench.run();
  if (options.as_json && !bench.on_host() && !interrupt.has_come()) {
    about["copy_gb_per_s"] = bench.copy_bandwidth();  // C
    about["matmul_tflop_per_s"] = bench.peak();
  }
  report.finish(std::move(about), interrupt.has_come());
}

void run(const Options& options) {
  const Interrupt interrupt;
  {
    BenchReport report(options.as_json);
    announce(options, report);
    if (options.engine) {
      run_engine(options, report, interrupt);
    } else {
      run_steps(options, report, interrupt);
    }
  }
  interrupt.end_if_come();
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "bench", "Time prefill and decode of a shape with random weights (no checkpoint needed)");
  auto options = std::make_shared<Options>();
  command
      ->add_option("--shape", options->shape,
                   "gemma2-2b, gemma2-9b, gemma2-27b, or a path to a config.json")
      ->capture_default_str();
  command->add_option("--prompt", options->prompts, "Prompt lengths, such as 128,512")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  command->add_option("--batch", options->batches, "Numbers of sequences, such as 1,4")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--adapters", options->adapters,
                   "Numbers of distinct random adapters in the batch, such as 0,1,8,32")
      ->delimiter(',')
      ->check(CLI::NonNegativeNumber);
  command->add_option("--rank", options->rank, "Rank of the adapters")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  command
      ->add_option("--targets", options->targets,
                   "Projections that the adapters change: all, or names such as q_proj,v_proj")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--generate", options->generate, "Tokens to generate per sequence")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--repeat", options->repeat, "Rounds; medians are reported")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--engine", options->engine,
                    "Requests to the engine in place of bare steps: what a server is built on");
  command->add_option("--adapter-dir", options->adapter_dir,
                      "With --engine: where the adapters are, in place of random ones");
  command->add_option("--zipf", options->zipf,
                      "With --engine: exponent of the adapters' shares of the requests, the first "
                      "by name most (default: they take turns)");
  command
      ->add_option("--requests", options->requests,
                   "With --engine: requests of a round, --batch at a time (default: --batch)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--overlap", options->overlap,
                   "With --engine: whether the next step is asked for ahead of this one's tokens")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
  command->add_flag("--json", options->as_json, "One JSON object");
  options->device.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

// lorax bench: speed of a shape with random weights, beside what this machine's memory allows.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <vector>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/core_count.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/device_rates.h"
#include "cli/options.h"
#include "cli/read_bandwidth.h"
#include "engine/model_runner.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

struct Options {
  std::string shape = "gemma2-2b";
  std::vector<int64_t> prompts = {512};
  std::vector<int64_t> batches = {1};
  int64_t generate = 32;
  int repeat = 3;
  bool as_json = false;
  DeviceFlags device;
};

struct Measurement {
  std::string phase;  // "prefill" or "decode"
  int64_t batch = 0;
  int64_t prompt = 0;
  double seconds = 0.0;  // of one step
  double tokens_per_second = 0.0;
  double weight_gb_per_second = 0.0;
  double tflop_per_second = 0.0;
  double read_gb_per_second = 0.0;  // the machine's bandwidth, just before and after; of a GPU the
                                    // bandwidth of copying, reads and writes counted
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
  explicit Bench(const Options& options)
      : options_(options),
        loaded_(LoadedModel::with_random_weights(read_shape(options.shape),
                                                 options.device.load_options())),
        pool_(options.device.threads > 0 ? options.device.threads : usable_cores()),
        probe_(loaded_.device(), size_t{1} << 30) {
    // Pages that were never written all map to one page of zeros.
    std::vector<char> block(size_t{1} << 20, 1);
    for (size_t at = 0; at < probe_.bytes(); at += block.size()) {
      loaded_.device().copy_from_host(static_cast<char*>(probe_.data()) + at, block.data(),
                                      block.size());
    }
    loaded_.device().synchronize();
  }

  std::vector<Measurement> run() {
    std::vector<Measurement> measurements;
    for (int64_t batch : options_.batches) {
      for (int64_t prompt : options_.prompts) run_case(batch, prompt, measurements);
    }
    return measurements;
  }

  LoadedModel& loaded() { return loaded_; }
  // Whether the device's memory is the host's own.
  bool on_host() { return loaded_.device().host_pointer(probe_.data()) != nullptr; }
  // Bytes of weights that one step reads: every product's matrix once.
  double step_bytes() const {
    return static_cast<double>(loaded_.info().multiply_adds_per_token) *
           static_cast<double>(size_of(loaded_.dtype()));
  }

 private:
  double probe_bandwidth() {
    if (on_host()) {
      return read_bandwidth(pool_, loaded_.device().host_pointer(probe_.data()), probe_.bytes());
    }
    const size_t half = probe_.bytes() / 2;
    char* data = static_cast<char*>(probe_.data());
    return copy_rate(loaded_.device(), data, data + half, half);
  }

  std::vector<Sequence> make_sequences(int64_t batch, int64_t prompt) {
    std::vector<Sequence> sequences;
    int32_t next_page = 0;
    uint64_t state = 12345;
    for (int64_t b = 0; b < batch; ++b) {
      Sequence sequence;
      for (int64_t i = 0; i < prompt; ++i) sequence.tokens.push_back(next_token(state));
      take_pages(sequence, options_.generate, KvCache::kBlockSize, next_page);
      sequences.push_back(std::move(sequence));
    }
    return sequences;
  }

  int32_t next_token(uint64_t& state) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(loaded_.info().vocab_size));
  }

  // One step over all pending tokens of every sequence, its logits included. Returns seconds.
  double timed_step(ModelRunner& runner, std::vector<Sequence>& sequences) {
    std::vector<SequenceStep> steps;
    for (Sequence& sequence : sequences) {
      steps.push_back({.sequence = &sequence, .tokens = sequence.pending()});
    }
    const Clock::time_point start = Clock::now();
    const int64_t rows = runner.step(steps);
    runner.logits(0, rows);
    const std::chrono::duration<double> elapsed = Clock::now() - start;
    uint64_t state = static_cast<uint64_t>(sequences.front().length());
    for (Sequence& sequence : sequences) {
      sequence.cached = sequence.length();
      sequence.tokens.push_back(next_token(state));
    }
    return elapsed.count();
  }

  Measurement measure(std::string phase, int64_t batch, int64_t prompt, int64_t tokens,
                      double seconds, const std::vector<double>& bandwidths) const {
    const ModelInfo& info = loaded_.info();
    Measurement m{.phase = std::move(phase), .batch = batch, .prompt = prompt};
    // Only the last row of each sequence goes through the head.
    const double head = static_cast<double>(info.hidden_size * info.vocab_size);
    const double multiply_adds =
        (static_cast<double>(info.multiply_adds_per_token) - head) * static_cast<double>(tokens) +
        head * static_cast<double>(batch);
    m.seconds = seconds;
    m.tokens_per_second = static_cast<double>(tokens) / seconds;
    m.weight_gb_per_second = step_bytes() / seconds * 1e-9;
    m.tflop_per_second = 2.0 * multiply_adds / seconds * 1e-12;
    m.read_gb_per_second = median(bandwidths);
    return m;
  }

  void run_case(int64_t batch, int64_t prompt, std::vector<Measurement>& measurements) {
    const int64_t length = prompt + options_.generate;
    if (length > loaded_.info().max_position_embeddings) {
      fail("--prompt {} and --generate {}: the model takes at most {} tokens in all", prompt,
           options_.generate, loaded_.info().max_position_embeddings);
    }
    ModelRunner runner(loaded_.device(), loaded_.model(),
                       {.max_tokens = batch * prompt,
                        .max_sequences = batch,
                        .max_length = length,
                        .max_logits_rows = batch,
                        .kv_blocks = batch * pages_for(length, KvCache::kBlockSize)});
    std::vector<double> bandwidths;
    std::vector<double> prefills;
    std::vector<double> decodes;
    for (int round = -1; round < options_.repeat; ++round) {  // the first warms up
      std::vector<Sequence> sequences = make_sequences(batch, prompt);
      for (int i = 0; i < 3; ++i) bandwidths.push_back(probe_bandwidth());
      const double prefill = timed_step(runner, sequences);
      if (round >= 0) prefills.push_back(prefill);
      for (int64_t step = 1; step < options_.generate; ++step) {
        const double decode = timed_step(runner, sequences);
        if (round >= 0) decodes.push_back(decode);
      }
      for (int i = 0; i < 3; ++i) bandwidths.push_back(probe_bandwidth());
      if (options_.repeat > 1 && round < 0 && prefill > 30.0) ++round;  // warm enough
    }
    measurements.push_back(
        measure("prefill", batch, prompt, batch * prompt, median(prefills), bandwidths));
    if (!decodes.empty()) {
      measurements.push_back(measure("decode", batch, prompt, batch, median(decodes), bandwidths));
    }
  }

  const Options& options_;
  LoadedModel loaded_;
  ThreadPool pool_;
  Buffer probe_;  // what the bandwidth is measured on
};

json::object to_json(const Measurement& m) {
  return {{"phase", m.phase},
          {"batch", m.batch},
          {"prompt", m.prompt},
          {"ms_per_step", m.seconds * 1e3},
          {"tokens_per_s", m.tokens_per_second},
          {"weight_gb_per_s", m.weight_gb_per_second},
          {"tflop_per_s", m.tflop_per_second},
          {"read_gb_per_s", m.read_gb_per_second}};
}

void run(const Options& options) {
  Bench bench(options);
  const std::string device = bench.loaded().device().describe();
  const std::vector<Measurement> measurements = bench.run();
  if (options.as_json) {
    json::array results;
    for (const Measurement& m : measurements) results.push_back(to_json(m));
    json::object report{{"shape", options.shape},
                        {"dtype", name_of(bench.loaded().dtype())},
                        {"device", device},
                        {"weight_bytes", bench.loaded().weight_bytes()}};
    if (!bench.on_host()) {
      report["copy_gb_per_s"] = measurements.front().read_gb_per_second;    // C
      report["matmul_tflop_per_s"] = matmul_rate(bench.loaded().device());  // P
    }
    report["results"] = std::move(results);
    fmt::print("{}\n", json::serialize(report));
    return;
  }
  fmt::print("{} {} on {}, {:.2f} GB of weights\n", options.shape, name_of(bench.loaded().dtype()),
             device, static_cast<double>(bench.loaded().weight_bytes()) * 1e-9);
  fmt::print("{:8} {:>6} {:>7} {:>12} {:>10} {:>13} {:>9} {:>11} {:>6}\n", "phase", "batch",
             "prompt", "ms/step", "tokens/s", "weights GB/s", "TFLOP/s", "read GB/s", "ratio");
  for (const Measurement& m : measurements) {
    fmt::print("{:8} {:>6} {:>7} {:>12.2f} {:>10.2f} {:>13.2f} {:>9.3f} {:>11.2f} {:>6.2f}\n",
               m.phase, m.batch, m.prompt, m.seconds * 1e3, m.tokens_per_second,
               m.weight_gb_per_second, m.tflop_per_second, m.read_gb_per_second,
               m.weight_gb_per_second / m.read_gb_per_second);
  }
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
  command->add_option("--generate", options->generate, "Tokens to generate per sequence")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--repeat", options->repeat, "Rounds; medians are reported")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--json", options->as_json, "One JSON object");
  options->device.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

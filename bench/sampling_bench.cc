// Choosing the tokens of a batch: rows per second of engine/sample/sampler.h over random logits,
// which are rotated over more memory than a cache holds.
//
// sampling_bench [--device cpu] [--threads N] [--rows 64] [--ms MILLISECONDS_PER_CASE] [--cpu-time]
//
// --cpu-time counts the processor time of all threads: with --threads 1 a busy machine shows
// little.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "device/factory/device_factory.h"
#include "engine/sample/sampler.h"

namespace lorax {
namespace {

struct Options {
  std::string device = "cpu";
  int threads = 0;
  int64_t rows = 64;
  double milliseconds = 300.0;
  bool cpu_time = false;
};

double seconds_now(const Options& options) {
  if (options.cpu_time) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Case {
  const char* name;
  SamplingParameters parameters;
  int32_t alternatives = 0;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"greedy", {.temperature = 0.0f}},
      {"greedy, repetition penalty", {.temperature = 0.0f, .repetition_penalty = 1.1f}},
      {"greedy, 5 alternatives", {.temperature = 0.0f}, 5},
      {"temperature", {.temperature = 0.8f}},
      {"top_k 40, top_p 0.95", {.top_k = 40, .top_p = 0.95f}},
      {"top_p 0.95", {.top_p = 0.95f}},
      {"typical_p 0.9", {.typical_p = 0.9f}},
      {"min_p 0.05", {.min_p = 0.05f}},
      {"temperature, watermark", {.temperature = 0.8f, .watermark = true}}};
  return all;
}

// Several batches of logits one after the other.
class Batches {
 public:
  Batches(Device& device, int64_t rows, int64_t vocab_size) : rows_(rows), vocab_size_(vocab_size) {
    constexpr int64_t kBytes = int64_t{256} << 20;
    count_ = std::clamp<int64_t>(kBytes / (rows * vocab_size * 4), 2, 64);
    buffer_ = Buffer(device, static_cast<size_t>(count_ * rows * vocab_size) * sizeof(float));
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    std::vector<float> batch(static_cast<size_t>(rows * vocab_size));
    // A few likely tokens among many that are not, as a model has them.
    for (float& logit : batch) logit = normal(random) - (random() % 64 == 0 ? 0.0f : 8.0f);
    for (int64_t i = 0; i < count_; ++i) {
      device.copy_from_host(at(i).data, batch.data(), at(i).bytes());
    }
    device.synchronize();
  }

  Tensor next() { return at(turn_++ % count_); }

 private:
  Tensor at(int64_t i) const {
    return Tensor(static_cast<float*>(buffer_.data()) + i * rows_ * vocab_size_, DType::kFloat32,
                  {rows_, vocab_size_});
  }

  int64_t rows_, vocab_size_, count_ = 0, turn_ = 0;
  Buffer buffer_;
};

// The median of the times of single calls, in seconds.
double time_case(Device& device, Batches& batches, const Case& what, const Options& options) {
  Sampler sampler(device);
  std::vector<SamplerState> states;
  std::vector<int32_t> prompt(500);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 3);
  for (int64_t row = 0; row < options.rows; ++row) {
    SamplingParameters parameters = what.parameters;
    parameters.seed = static_cast<uint64_t>(row);
    states.emplace_back(parameters, prompt);
  }
  std::vector<SamplerRow> rows;
  for (const SamplerState& state : states) {
    rows.push_back({.state = &state, .alternatives = what.alternatives});
  }
  sampler.sample(batches.next(), rows);
  std::vector<double> times;
  const double start = seconds_now(options);
  while (times.size() < 5 || seconds_now(options) - start < options.milliseconds * 1e-3) {
    const double begin = seconds_now(options);
    sampler.sample(batches.next(), rows);
    times.push_back(seconds_now(options) - begin);
  }
  std::ranges::nth_element(times, times.begin() + static_cast<ptrdiff_t>(times.size() / 2));
  return times[times.size() / 2];
}

void run(const Options& options) {
  const std::unique_ptr<Device> device =
      make_device({.name = options.device, .threads = options.threads});
  fmt::print("{}\n", device->describe());
  for (const int64_t vocab_size : {int64_t{2048}, int64_t{256000}}) {
    Batches batches(*device, options.rows, vocab_size);
    for (const Case& what : cases()) {
      const double seconds = time_case(*device, batches, what, options);
      fmt::print("{:>3} x {:<7} {:28} {:>9.1f} us {:>12.0f} rows/s\n", options.rows, vocab_size,
                 what.name, seconds * 1e6, static_cast<double>(options.rows) / seconds);
    }
  }
}

}  // namespace
}  // namespace lorax

int main(int argc, char** argv) {
  lorax::Options options;
  CLI::App app("Times the choice of tokens");
  app.add_option("--device", options.device);
  app.add_option("--threads", options.threads);
  app.add_option("--rows", options.rows);
  app.add_option("--ms", options.milliseconds);
  app.add_flag("--cpu-time", options.cpu_time);
  CLI11_PARSE(app, argc, argv);
  lorax::run(options);
  return 0;
}

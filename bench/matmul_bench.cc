// The products of Gemma 2 2B, out = x * weight^T, on the CPU: for each kernel of this processor,
// weights read in GB/s and sums in GFLOP/s, beside what the same threads reach in the same seconds
// by only reading memory and only multiplying and adding in registers. Weights are rotated over
// more memory than a cache holds.
//
// matmul_bench [--threads N] [--rows 1,16,512] [--kernel NAME] [--dtype NAME] [--repeat N]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/core_count.h"
#include "base/thread_pool.h"
#include "cli/read_bandwidth.h"
#include "device/cpu/matmul.h"
#include "device/cpu/matmul_kernel.h"
#include "device/device.h"
#include "device/factory/device_factory.h"
#include "peak_flops.h"

namespace lorax {
namespace {

constexpr size_t kWeightBytes = size_t{640} << 20;

struct Shape {
  const char* name;
  int64_t m, n;
};
constexpr Shape kShapes[] = {{"qkv", 4096, 2304},
                             {"o", 2304, 2048},
                             {"gate_up", 18432, 2304},
                             {"down", 2304, 9216},
                             {"head", 64000, 2304}};  // a quarter of it

struct Options {
  int threads = usable_cores();
  std::vector<int64_t> rows = {1, 2, 4, 8, 16, 64, 512};
  std::string kernel;
  std::string dtype;
  std::string shape;
  int repeat = 5;
};

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        pool_(options.threads),
        device_(make_device({.name = "cpu", .threads = 1})),
        weights_(*device_, kWeightBytes) {
    // Finite numbers as bfloat16, as float16 and, in pairs, as float32.
    uint16_t* bits = static_cast<uint16_t*>(weights_.data());
    std::minstd_rand random;
    for (size_t i = 0; i < kWeightBytes / 2; ++i) {
      bits[i] = BFloat16(static_cast<float>(random() % 2001) * 1e-3f - 1.0f).bits;
    }
  }

  void run(const cpu::MatmulKernel& kernel) {
    cpu::Matmul matmul(pool_, &kernel);
    fmt::print("\n{}, {}, {} threads\n", kernel.instruction_set, name_of(kernel.dtype),
               pool_.size());
    fmt::print("{:8} {:>6} {:>6} {:>5} {:>9} {:>8} {:>6} {:>9} {:>6}\n", "", "m", "n", "rows", "us",
               "GB/s", "/read", "GFLOP/s", "/peak");
    for (const Shape& shape : kShapes) {
      if (!options_.shape.empty() && options_.shape != shape.name) continue;
      for (int64_t rows : options_.rows) run(kernel, matmul, shape, rows);
    }
  }

 private:
  void run(const cpu::MatmulKernel& kernel, cpu::Matmul& matmul, const Shape& shape, int64_t rows) {
    std::vector<uint16_t> x(static_cast<size_t>(rows * shape.n) * 2, BFloat16(0.5f).bits);
    std::vector<uint16_t> out(static_cast<size_t>(rows * shape.m) * 2);
    const int64_t bytes = shape.m * shape.n * static_cast<int64_t>(size_of(kernel.dtype));
    const double flops = 2.0 * static_cast<double>(rows * shape.m * shape.n);
    // About 50 ms or one call.
    const int64_t calls = std::clamp<int64_t>(
        static_cast<int64_t>(std::min(1.5e9 / static_cast<double>(bytes), 8e9 / flops)), 1, 1000);
    // The best of several: others may use this machine too.
    double time = std::numeric_limits<double>::infinity(), read = 0, peak = 0;
    for (int i = 0; i < options_.repeat + 1; ++i) {
      const double elapsed = seconds([&] {
        for (int64_t call = 0; call < calls; ++call) {
          matmul(Tensor(x.data(), kernel.dtype, {rows, shape.n}), next_weight(kernel.dtype, shape),
                 Tensor(out.data(), kernel.dtype, {rows, shape.m}));
        }
      });
      if (i == 0) continue;  // caches and scratch
      time = std::min(time, elapsed / static_cast<double>(calls));
      read = std::max(read, read_bandwidth());
      peak = std::max(peak, peak_flops(pool_, kernel.instruction_set) * 1e-9);
    }
    const double gbs = static_cast<double>(bytes) / time * 1e-9;
    const double gflops = flops / time * 1e-9;
    fmt::print("{:8} {:6} {:6} {:5} {:9.0f} {:8.1f} {:6.2f} {:9.1f} {:6.2f}\n", shape.name, shape.m,
               shape.n, rows, time * 1e6, gbs, gbs / read, gflops, gflops / peak);
    std::fflush(stdout);
  }

  Tensor next_weight(DType dtype, const Shape& shape) {
    const size_t bytes = static_cast<size_t>(shape.m * shape.n) * size_of(dtype);
    if (at_ + bytes > kWeightBytes) at_ = 0;
    char* data = static_cast<char*>(weights_.data()) + at_;
    at_ += bytes;
    return Tensor(data, dtype, {shape.m, shape.n});
  }

  double read_bandwidth() { return cli::read_bandwidth(pool_, weights_.data(), kWeightBytes / 2); }

  const Options& options_;
  ThreadPool pool_;
  std::unique_ptr<Device> device_;
  Buffer weights_;  // rotated over: weights of call after call lie in a row
  size_t at_ = 0;
};

std::vector<int64_t> parse_numbers(std::string_view text) {
  std::vector<int64_t> numbers;
  while (!text.empty()) {
    numbers.push_back(std::atoll(std::string(text).c_str()));
    const size_t comma = text.find(',');
    text = comma == std::string_view::npos ? "" : text.substr(comma + 1);
  }
  return numbers;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--threads") options.threads = std::atoi(argv[i + 1]);
    if (name == "--rows") options.rows = parse_numbers(argv[i + 1]);
    if (name == "--kernel") options.kernel = argv[i + 1];
    if (name == "--dtype") options.dtype = argv[i + 1];
    if (name == "--shape") options.shape = argv[i + 1];
    if (name == "--repeat") options.repeat = std::atoi(argv[i + 1]);
  }
  return options;
}

}  // namespace
}  // namespace lorax

int main(int argc, char** argv) {
  const lorax::Options options = lorax::parse(argc, argv);
  lorax::Bench bench(options);
  for (const lorax::cpu::MatmulKernel* kernel : lorax::cpu::all_matmul_kernels()) {
    const bool wanted = (options.kernel.empty() || options.kernel == kernel->instruction_set) &&
                        (options.dtype.empty() || options.dtype == lorax::name_of(kernel->dtype));
    if (wanted) bench.run(*kernel);
  }
  return 0;
}

// Single operations of Gemma 2 2b and 9b in bfloat16 on a GPU, beside what the GPU reaches at its
// best in the same run: copy bandwidth C and the rate P of a large product. Weights and pages are
// rotated over more memory than a cache holds.
//
// device_bench [--device cuda] [--only copy,linear,lora,decode,prefill] [--ms
// MILLISECONDS_PER_CASE]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "cli/device_rates.h"
#include "device/device.h"
#include "device/factory/device_factory.h"

namespace lorax {
namespace {

constexpr size_t kPoolBytes = size_t{4} << 30;

struct Options {
  std::string device = "cuda";
  std::string only = "copy,linear,lora,decode,prefill";
  double milliseconds = 60.0;
};

struct LinearShape {
  const char* name;
  int64_t m, n;
  DType out;
};
constexpr LinearShape kLinears[] = {
    {"2b qkv", 4096, 2304, DType::kBFloat16},      {"2b o", 2304, 2048, DType::kBFloat16},
    {"2b gate_up", 18432, 2304, DType::kBFloat16}, {"2b down", 2304, 9216, DType::kBFloat16},
    {"2b head", 256000, 2304, DType::kFloat32},    {"9b qkv", 8192, 3584, DType::kBFloat16},
    {"9b o", 3584, 4096, DType::kBFloat16},        {"9b gate_up", 28672, 3584, DType::kBFloat16},
    {"9b down", 3584, 14336, DType::kBFloat16}};

// The modules of a 9b layer that share an input.
struct LoraShape {
  const char* name;
  int64_t n;
  std::vector<int64_t> columns;
};
const LoraShape kLoras[] = {{"9b qkv", 3584, {4096, 2048, 2048}},
                            {"9b o", 4096, {3584}},
                            {"9b gate_up", 3584, {14336, 14336}},
                            {"9b down", 14336, {3584}}};

// Sequences of equal length with pages of their own, in shuffled order.
class AttentionStep {
 public:
  AttentionStep(Device& device, void* pool, int64_t sequences, int rows, int64_t length,
                int64_t heads, int64_t kv_heads)
      : device_(device), heads_(heads), rows_(sequences * rows) {
    constexpr int64_t kBlockSize = 16;
    const int64_t blocks_each = (length + kBlockSize - 1) / kBlockSize;
    const int64_t blocks = sequences * blocks_each;
    std::vector<int32_t> tables(static_cast<size_t>(blocks));
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), std::mt19937(3));
    std::vector<int32_t> cu_seqlens, lengths(static_cast<size_t>(sequences), int32_t(length));
    for (int32_t i = 0; i <= sequences; ++i) cu_seqlens.push_back(i * rows);
    kv_.key = Tensor(pool, DType::kBFloat16, {blocks, kBlockSize, kv_heads, kHeadSize});
    kv_.value = kv_.key;
    kv_.value.data = static_cast<char*>(pool) + kv_.key.bytes();
    batch_ = {.cu_seqlens_q = upload(cu_seqlens, {sequences + 1}),
              .kv_lengths = upload(lengths, {sequences}),
              .block_tables = upload(tables, {sequences, blocks_each}),
              .max_q = rows,
              .max_kv = static_cast<int>(length)};
    queries_ = Buffer(device, static_cast<size_t>(rows_ * heads * kHeadSize) * 2);
    out_ = Buffer(device, queries_.bytes());
    device.copy(queries_.data(), pool, queries_.bytes());
  }

  void run(float softcap, int window = 0) {
    device_.attention(matrix(queries_), kv_, batch_,
                      {.scale = 0.0625f, .softcap = softcap, .window = window}, matrix(out_));
  }
  double kv_bytes() const { return 2.0 * static_cast<double>(kv_.key.bytes()); }

  static constexpr int64_t kHeadSize = 256;

 private:
  Tensor upload(const std::vector<int32_t>& values, std::initializer_list<int64_t> shape) {
    buffers_.emplace_back(device_, values.size() * sizeof(int32_t));
    device_.copy_from_host(buffers_.back().data(), values.data(), buffers_.back().bytes());
    device_.synchronize();
    return Tensor(buffers_.back().data(), DType::kInt32, shape);
  }
  Tensor matrix(const Buffer& buffer) const {
    return Tensor(buffer.data(), DType::kBFloat16, {rows_, heads_, kHeadSize});
  }

  Device& device_;
  int64_t heads_, rows_;
  PagedKv kv_;
  AttentionBatch batch_;
  std::vector<Buffer> buffers_;
  Buffer queries_, out_;
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        device_(make_device({.name = options.device, .threads = 0})),
        pool_(*device_, kPoolBytes) {
    // A piece of random numbers, repeated: products and scores see no zeros.
    std::vector<BFloat16> values(size_t{16} << 20);
    uint32_t state = 7;
    for (BFloat16& value : values) {
      state = state * 1664525u + 1013904223u;
      value = BFloat16(static_cast<float>(state >> 8) * 0x1p-23f - 1.0f);
    }
    const size_t bytes = values.size() * sizeof(BFloat16);
    for (size_t at = 0; at < kPoolBytes; at += bytes) {
      device_->copy_from_host(static_cast<char*>(pool_.data()) + at, values.data(), bytes);
    }
    device_->synchronize();
  }

  void run() {
    fmt::print("{}\n", device_->describe());
    copy_gb_s_ = cli::copy_rate(*device_, pool_.data(),
                                static_cast<char*>(pool_.data()) + kPoolBytes / 2, kPoolBytes / 4);
    matmul_tflop_s_ = cli::matmul_rate(*device_);
    fmt::print("C (copy, read + write) {:.0f} GB/s   P (8192^3 bfloat16 product) {:.0f} TFLOP/s\n",
               copy_gb_s_, matmul_tflop_s_);
    fmt::print("{:42} {:>10} {:>8} {:>6} {:>9} {:>6}\n", "", "us", "GB/s", "/C", "TFLOP/s", "/P");
    if (wanted("linear")) run_linears();
    if (wanted("lora")) {
      for (const LoraShape& shape : kLoras) {
        run_lora(shape, 1, 1);
        run_lora(shape, 64, 64);
        run_lora(shape, 64, 1);
        run_lora(shape, 2048, 1);
      }
    }
    if (wanted("decode")) {
      run_decode("2b decode 64 x 4096, 8/4 heads", 64, 4096, 8, 4);
      run_decode("9b decode 64 x 4096, 16/8 heads", 64, 4096, 16, 8);
      run_decode("9b decode 1 x 1024, 16/8 heads", 1, 1024, 16, 8);
    }
    if (wanted("prefill")) {
      for (int64_t tokens : {2048, 8192, 16384}) {
        for (float softcap : {50.0f, 0.0f}) run_prefill(tokens, tokens, softcap, 0);
      }
      for (int64_t tokens : {8192, 16384}) run_prefill(tokens, tokens, 50.0f, 4096);
      run_prefill(2048, 8192, 50.0f, 0);
    }
  }

 private:
  bool wanted(std::string_view part) const {
    return fmt::format(",{},", options_.only).find(fmt::format(",{},", part)) != std::string::npos;
  }

  // Seconds of one call: the median of five runs, each of about a fifth of the time of a case.
  double measure(const std::function<void()>& work) {
    const auto time = [&](int calls) {
      device_->synchronize();
      const auto start = std::chrono::steady_clock::now();
      for (int call = 0; call < calls; ++call) work();
      device_->synchronize();
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      return elapsed.count() / calls;
    };
    time(2);
    const double guess = time(3);
    const int calls =
        static_cast<int>(std::clamp(options_.milliseconds * 1e-3 / 5 / guess, 1.0, 2000.0));
    std::vector<double> seconds;
    for (int run = 0; run < 5; ++run) seconds.push_back(time(calls));
    std::ranges::sort(seconds);
    return seconds[2];
  }

  void report(const std::string& name, double seconds, double bytes, double flops) const {
    const double gb_s = bytes / seconds * 1e-9;
    const double tflop_s = flops / seconds * 1e-12;
    fmt::print("{:42} {:10.1f} {:8.0f} {:6.2f} {:9.1f} {:6.2f}\n", name, seconds * 1e6, gb_s,
               gb_s / copy_gb_s_, tflop_s, tflop_s / matmul_tflop_s_);
    std::fflush(stdout);
  }

  // The next `bytes` of the pool, round and round.
  void* next(size_t bytes) {
    if (at_ + bytes > kPoolBytes) at_ = 0;
    void* data = static_cast<char*>(pool_.data()) + at_;
    at_ += bytes;
    return data;
  }

  void run_linears() {
    for (const LinearShape& shape : kLinears) {
      for (int64_t rows : {1, 4, 8, 16, 32, 64, 512, 2048}) {
        if (shape.m > 100000 && rows > 64) continue;  // nobody asks for so many logits at once
        Buffer x(*device_, static_cast<size_t>(rows * shape.n) * 2);
        Buffer out(*device_, static_cast<size_t>(rows * shape.m) * size_of(shape.out));
        device_->copy(x.data(), pool_.data(), x.bytes());
        const size_t weight_bytes = static_cast<size_t>(shape.m * shape.n) * 2;
        const double seconds = measure([&] {
          device_->linear(Tensor(x.data(), DType::kBFloat16, {rows, shape.n}),
                          Tensor(next(weight_bytes), DType::kBFloat16, {shape.m, shape.n}),
                          Tensor(out.data(), shape.out, {rows, shape.m}));
        });
        report(fmt::format("linear {:10} rows {}", shape.name, rows), seconds,
               static_cast<double>(weight_bytes + x.bytes() + out.bytes()),
               2.0 * static_cast<double>(rows * shape.m * shape.n));
      }
    }
  }

  // `rows` rows of `adapters` adapters of rank 16, in turns; other adapters with every call. The
  // bytes are those of A and B alone; a prefill's time is that of x and out.
  void run_lora(const LoraShape& shape, int64_t rows, int64_t adapters) {
    constexpr int64_t kRank = 16;
    const int64_t modules = static_cast<int64_t>(shape.columns.size());
    std::vector<LoraTarget> targets;
    int64_t outputs = 0;
    size_t adapter_bytes = 0;
    for (int64_t columns : shape.columns) {
      targets.push_back({static_cast<int64_t>(targets.size()), outputs, columns});
      outputs += columns;
      adapter_bytes += static_cast<size_t>(kRank * (shape.n + columns)) * 2;
    }
    // As many steps' adapters as the pool holds, or enough to leave no cache anything.
    const int64_t steps =
        std::clamp<int64_t>(static_cast<int64_t>(kPoolBytes / adapter_bytes) / adapters, 1, 1024);
    std::vector<LoraEntry> entries;
    for (int64_t slot = 0; slot < steps * adapters; ++slot) {
      for (int64_t columns : shape.columns) {
        entries.push_back({.a = next(static_cast<size_t>(kRank * shape.n) * 2),
                           .b = next(static_cast<size_t>(kRank * columns) * 2),
                           .rank = kRank,
                           .scale = 0.01f});
      }
    }
    std::vector<int32_t> order, segments = {0}, slots;
    for (int64_t adapter = 0; adapter < adapters; ++adapter) {
      for (int64_t row = adapter; row < rows; row += adapters) {
        order.push_back(static_cast<int32_t>(row));
      }
      segments.push_back(static_cast<int32_t>(order.size()));
    }
    for (int64_t slot = 0; slot < steps * adapters; ++slot) {
      slots.push_back(static_cast<int32_t>(slot));
    }
    const auto upload = [&](const auto& values) {
      Buffer buffer(*device_, values.size() * sizeof(values[0]));
      device_->copy_from_host(buffer.data(), values.data(), buffer.bytes());
      device_->synchronize();
      return buffer;
    };
    const Buffer table = upload(entries), row_ids = upload(order), bounds = upload(segments),
                 slot_ids = upload(slots);
    const Tensor all_slots(slot_ids.data(), DType::kInt32, {steps * adapters});
    Buffer x(*device_, static_cast<size_t>(rows * shape.n) * 2);
    Buffer out(*device_, static_cast<size_t>(rows * outputs) * 2);
    device_->copy(x.data(), pool_.data(), x.bytes());
    device_->copy(out.data(), pool_.data(), out.bytes());
    int64_t step = 0;
    const double seconds = measure([&] {
      step = (step + 1) % steps;
      const LoraRows which = {
          .rows = Tensor(row_ids.data(), DType::kInt32, {rows}),
          .segments = Tensor(bounds.data(), DType::kInt32, {adapters + 1}),
          .slots = all_slots.slice(0, step * adapters, (step + 1) * adapters),
          .table = {static_cast<const LoraEntry*>(table.data()), modules, DType::kBFloat16}};
      device_->lora(Tensor(x.data(), DType::kBFloat16, {rows, shape.n}), targets, which,
                    Tensor(out.data(), DType::kBFloat16, {rows, outputs}));
    });
    report(fmt::format("lora {:10} rows {}, adapters {}", shape.name, rows, adapters), seconds,
           static_cast<double>(adapter_bytes) * static_cast<double>(adapters),
           static_cast<double>(rows) * static_cast<double>(adapter_bytes));
  }

  void run_decode(const std::string& name, int64_t sequences, int64_t length, int64_t heads,
                  int64_t kv_heads) {
    AttentionStep step(*device_, pool_.data(), sequences, 1, length, heads, kv_heads);
    const double flops =
        4.0 * static_cast<double>(sequences * length * heads * AttentionStep::kHeadSize);
    report(name, measure([&] { step.run(50.0f); }), step.kv_bytes(), flops);
  }

  // The last `rows` of `tokens`.
  void run_prefill(int64_t rows, int64_t tokens, float softcap, int window) {
    constexpr int64_t kHeads = 16;
    AttentionStep step(*device_, pool_.data(), 1, static_cast<int>(rows), tokens, kHeads, 8);
    double pairs = 0.0;
    for (int64_t row = tokens - rows; row < tokens; ++row) {
      pairs += static_cast<double>(window > 0 ? std::min<int64_t>(row + 1, window) : row + 1);
    }
    const std::string part = rows < tokens ? fmt::format("{} of ", rows) : "";
    const std::string limit = window > 0 ? fmt::format(", window {}", window) : "";
    report(fmt::format("9b prefill {}{} tokens, cap {:.0f}{}", part, tokens, softcap, limit),
           measure([&] { step.run(softcap, window); }), step.kv_bytes(),
           4.0 * pairs * kHeads * AttentionStep::kHeadSize);
  }

  const Options& options_;
  std::unique_ptr<Device> device_;
  Buffer pool_;
  size_t at_ = 0;
  double copy_gb_s_ = 0.0;
  double matmul_tflop_s_ = 0.0;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--device") options.device = argv[i + 1];
    if (name == "--only") options.only = argv[i + 1];
    if (name == "--ms") options.milliseconds = std::atof(argv[i + 1]);
  }
  return options;
}

}  // namespace
}  // namespace lorax

int main(int argc, char** argv) {
  try {
    const lorax::Options options = lorax::parse(argc, argv);
    lorax::Bench(options).run();
  } catch (const std::exception& error) {
    fmt::print(stderr, "device_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}

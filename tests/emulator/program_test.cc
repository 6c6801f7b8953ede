// Programs (device/cuda/megakernel/program.h) of whole layers, run by the emulator, against the
// CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <numeric>
#include <random>

#include "cuda_builtins.h"
#include "device/device.h"
#include "device_tensor.h"

// The kernel and what launches it, under a name of their own beside the real ones, and the shared
// memory that it declares extern.
#define cuda emulated
namespace lorax::cuda {
namespace {
alignas(128) thread_local unsigned char shared[227 << 10];
}  // namespace
}  // namespace lorax::cuda
#include "device/cuda/megakernel/program.cc"
#include "device/cuda/megakernel/program.cu"
#include "device/cuda/ops/kernel_args.cc"
#undef cuda

namespace lorax::testing {
namespace {

struct LayersShape {
  std::string name;
  int64_t rows, hidden, intermediate, heads, kv_heads, head_size;
  int window;
  int longest;  // sequence
  int blocks;   // of the GPU
  int layers;
  std::vector<int> ranks = {};  // of adapters; none: products have no low-rank parts
};

std::ostream& operator<<(std::ostream& out, const LayersShape& s) { return out << s.name; }

// Tensors of one run.
struct Activations {
  Tensor residual, hidden, product, qkv, attention, gate_up, gated, key, value, logits;
};

class EmulatedProgramTest : public ::testing::TestWithParam<LayersShape> {
 protected:
  static constexpr int kBlockSize = 16;
  static constexpr int64_t kVocabulary = 333;
  static constexpr int64_t kFillRow = 5;  // of a batch that was filled up: no tokens, no slot

  EmulatedProgramTest() {
    const LayersShape& s = GetParam();
    const int64_t q_size = s.heads * s.head_size;
    const double scale = 1.0 / std::sqrt(static_cast<double>(s.hidden));
    qkv_weight_ = random({(s.heads + 2 * s.kv_heads) * s.head_size, s.hidden}, scale);
    o_weight_ = random({s.hidden, q_size}, 1.0 / std::sqrt(static_cast<double>(q_size)));
    gate_up_weight_ = random({2 * s.intermediate, s.hidden}, scale);
    down_weight_ =
        random({s.hidden, s.intermediate}, 1.0 / std::sqrt(static_cast<double>(s.intermediate)));
    head_weight_ = random({kVocabulary, s.hidden}, scale);
    norm_ = random(DType::kFloat32, {s.hidden}, 1.0);
    next_norm_ = random(DType::kFloat32, {s.hidden}, 1.0);
    cos_ = random(DType::kFloat32, {s.longest, s.head_size / 2}, 0.7);
    sin_ = random(DType::kFloat32, {s.longest, s.head_size / 2}, 0.7);
    residual_ = random(DType::kFloat32, {s.rows, s.hidden}, 1.0);

    std::vector<int> starts(static_cast<size_t>(s.rows + 1)), tables, positions, slots;
    std::iota(starts.begin(), starts.end(), 0);
    const int blocks = (s.longest + kBlockSize - 1) / kBlockSize;
    for (int row = 0; row < s.rows; ++row) {
      const int length = s.longest - row * 37 % s.longest;
      lengths_.push_back(row == kFillRow ? 0 : length);
      positions.push_back(length - 1);
      for (int block = 0; block < blocks; ++block) {
        tables.push_back(row * blocks + blocks - 1 - block);
      }
      slots_.push_back(static_cast<int>(slot(row, length - 1)));
      slots.push_back(row == kFillRow ? -1 : slots_.back());
    }
    positions_ = integers(DType::kInt32, {s.rows}, positions);
    store_slots_ = integers(DType::kInt64, {s.rows}, slots);
    batch_ = {.cu_seqlens_q = integers(DType::kInt32, {s.rows + 1}, starts),
              .kv_lengths = integers(DType::kInt32, {s.rows}, lengths_),
              .block_tables = integers(DType::kInt32, {s.rows, blocks}, tables),
              .max_q = 1,
              .max_kv = s.longest + 100};
    options_ = {.scale = 1.0f / std::sqrt(static_cast<float>(s.head_size)),
                .softcap = 50.0f,
                .window = s.window};
    for (Values* pages : {&keys_, &values_}) {
      *pages = random_values(random_, DType::kBFloat16,
                             static_cast<size_t>(s.rows * blocks * kBlockSize * kv_size()));
    }
    if (has_adapters()) make_adapters();
    // Of tokens that are not there yet.
    for (int row = 0; row < s.rows; ++row) {
      for (int at = std::max(0, lengths_[static_cast<size_t>(row)] - 1); at < blocks * kBlockSize;
           ++at) {
        for (Values* pages : {&keys_, &values_}) {
          std::fill_n(pages->begin() + slot(row, at) * kv_size(), kv_size(), NAN);
        }
      }
    }
  }

  enum Module { kQ, kK, kV, kO, kGate, kUp, kDown, kModules };

  // Adapters whose factors change outputs by about a third. The last one has biases and gains, and
  // leaves gate alone.
  void make_adapters() {
    const LayersShape& s = GetParam();
    const std::array<std::pair<int64_t, int64_t>, kModules> shapes = {
        {{s.heads * s.head_size, s.hidden},
         {s.kv_heads * s.head_size, s.hidden},
         {s.kv_heads * s.head_size, s.hidden},
         {s.hidden, s.heads * s.head_size},
         {s.intermediate, s.hidden},
         {s.intermediate, s.hidden},
         {s.hidden, s.intermediate}}};
    const int count = static_cast<int>(s.ranks.size());
    entries_.resize(static_cast<size_t>(count) * kModules);
    for (int slot = 0; slot < count; ++slot) {
      for (size_t module = 0; module < kModules; ++module) {
        const auto [m, n] = shapes[module];
        const int rank = s.ranks[static_cast<size_t>(slot)] + static_cast<int>(module) % 2;
        LoraEntry& entry = entries_[static_cast<size_t>(slot) * kModules + module];
        entry.a = random({rank, n}, 1.0 / std::sqrt(static_cast<double>(n))).data;
        entry.b = random({lora_panels(m) * rank, kLoraPanel}, 1.0).data;
        entry.rank = rank;
        entry.scale = 0.3f / std::sqrt(static_cast<float>(rank));
        if (slot + 1 < count) continue;
        entry.bias = random(DType::kFloat32, {m}, 0.1).as<float>();
        entry.gain = random(DType::kFloat32, {m}, 1.0).as<float>();
        if (module == kGate) entry.rank = 0;
      }
    }
    // As a graph's: groups by adapter, then some without rows. Every fourth row has no adapter.
    std::vector<int> rows, segments = {0}, slots;
    for (int slot = count - 1; slot >= 0; --slot) {
      for (int row = 0; row < s.rows; ++row) {
        if (row % 4 != 3 && row % count == slot) rows.push_back(row);
      }
      if (static_cast<int>(rows.size()) == segments.back()) continue;
      segments.push_back(static_cast<int>(rows.size()));
      slots.push_back(slot);
    }
    rows.resize(static_cast<size_t>(s.rows));
    slots.resize(static_cast<size_t>(s.rows));
    segments.resize(static_cast<size_t>(s.rows) + 1, segments.back());
    lora_rows_ = {.rows = integers(DType::kInt32, {s.rows}, rows),
                  .segments = integers(DType::kInt32, {s.rows + 1}, segments),
                  .slots = integers(DType::kInt32, {s.rows}, slots),
                  .table = {entries_.data(), kModules, DType::kBFloat16}};
  }

  // The modules that share the columns of a product's output.
  std::vector<LoraTarget> targets(std::initializer_list<Module> modules,
                                  std::initializer_list<int64_t> columns) const {
    std::vector<LoraTarget> targets;
    int64_t at = 0;
    auto width = columns.begin();
    for (Module module : modules) {
      targets.push_back({module, at, *width});
      at += *width++;
    }
    return targets;
  }
  std::vector<LoraTarget> qkv_targets() const {
    const LayersShape& s = GetParam();
    return targets({kQ, kK, kV}, {s.heads * s.head_size, kv_size(), kv_size()});
  }
  std::vector<LoraTarget> o_targets() const { return targets({kO}, {GetParam().hidden}); }
  std::vector<LoraTarget> gate_up_targets() const {
    return targets({kGate, kUp}, {GetParam().intermediate, GetParam().intermediate});
  }
  std::vector<LoraTarget> down_targets() const { return targets({kDown}, {GetParam().hidden}); }

  bool has_adapters() const { return !GetParam().ranks.empty(); }
  void multiply_on_cpu(const Tensor& x, const Tensor& weight, LoraTargets targets,
                       const Tensor& out) {
    if (has_adapters()) {
      device_.linear_lora(x, weight, targets, lora_rows_, out);
    } else {
      device_.linear(x, weight, out);
    }
  }
  emulated::Operation product(const Tensor& x, const Tensor& weight, LoraTargets targets,
                              const Tensor& out) const {
    const emulated::LinearArgs linear = emulated::linear_args(x, weight, out);
    if (!has_adapters()) return linear;
    return emulated::LoraLinearArgs{.linear = linear,
                                    .lora = emulated::lora_args(x, targets, lora_rows_, out),
                                    .n_rows = GetParam().rows,
                                    .gated = {}};
  }
  emulated::Operation gated_product(const Activations& a) const {
    if (!has_adapters()) {
      return emulated::GatedLinearArgs{
          .linear = emulated::linear_args(a.hidden, gate_up_weight_, a.gated),
          .gate_up = emulated::rows_of(a.gate_up)};
    }
    auto args = std::get<emulated::LoraLinearArgs>(
        product(a.hidden, gate_up_weight_, gate_up_targets(), a.gate_up));
    args.gated = emulated::rows_of(a.gated);
    return args;
  }

  int64_t kv_size() const { return GetParam().kv_heads * GetParam().head_size; }
  int64_t slot(int row, int position) const {
    const int blocks = (GetParam().longest + kBlockSize - 1) / kBlockSize;
    return int64_t{row * blocks + blocks - 1 - position / kBlockSize} * kBlockSize +
           position % kBlockSize;
  }

  Tensor keep(DeviceTensor tensor) { return kept_.emplace_back(std::move(tensor)); }
  Tensor random(DType dtype, std::initializer_list<int64_t> shape, double scale) {
    int64_t n = 1;
    for (int64_t size : shape) n *= size;
    return keep(DeviceTensor(device_, dtype, shape,
                             random_values(random_, dtype, static_cast<size_t>(n), scale)));
  }
  Tensor random(std::initializer_list<int64_t> shape, double scale) {
    return random(DType::kBFloat16, shape, scale);
  }
  Tensor integers(DType dtype, std::initializer_list<int64_t> shape, const std::vector<int>& from) {
    return keep(DeviceTensor(device_, dtype, shape, Values(from.begin(), from.end())));
  }

  // All that a step reads and writes, as it is at first.
  Activations activations() {
    const LayersShape& s = GetParam();
    const auto room = [&](std::initializer_list<int64_t> shape) {
      return keep(DeviceTensor(device_, DType::kBFloat16, shape));
    };
    const int64_t slots = static_cast<int64_t>(keys_.size()) / kv_size();
    const auto pages = [&](const Values& from) {
      return keep(DeviceTensor(device_, DType::kBFloat16,
                               {slots / kBlockSize, kBlockSize, s.kv_heads, s.head_size}, from));
    };
    Activations a;
    a.residual = keep(DeviceTensor(device_, DType::kFloat32, {s.rows, s.hidden}));
    device_.copy(a.residual.data, residual_.data, residual_.bytes());
    a.hidden = room({s.rows, s.hidden});
    a.product = room({s.rows, s.hidden});
    a.qkv = room({s.rows, (s.heads + 2 * s.kv_heads) * s.head_size});
    a.attention = room({s.rows, s.heads, s.head_size});
    a.gate_up = room({s.rows, 2 * s.intermediate});
    a.gated = room({s.rows, s.intermediate});
    a.key = pages(keys_);
    a.value = pages(values_);
    a.logits = keep(DeviceTensor(device_, DType::kFloat32, {s.rows, kVocabulary}));
    return a;
  }

  // Queries, keys and values of the fused product.
  std::array<Tensor, 3> parts(const Activations& a) const {
    const LayersShape& s = GetParam();
    const Tensor heads = a.qkv.split_last(s.heads + 2 * s.kv_heads, s.head_size);
    return {heads.slice(1, 0, s.heads), heads.slice(1, s.heads, s.heads + s.kv_heads),
            heads.slice(1, s.heads + s.kv_heads, heads.dim(1))};
  }
  Tensor attended(const Activations& a) const {
    return a.attention.view({a.attention.dim(0), a.attention.dim(1) * a.attention.dim(2)});
  }

  void run_on_cpu(const Activations& a) {
    const auto [query, key, value] = parts(a);
    const PagedKv kv{a.key, a.value};
    device_.rms_norm(a.residual, norm_, 1e-6f, a.hidden);
    for (int layer = 0; layer < GetParam().layers; ++layer) {
      multiply_on_cpu(a.hidden, qkv_weight_, qkv_targets(), a.qkv);
      device_.rotary_store_kv(query, key, value, positions_, cos_, sin_, store_slots_, kv);
      device_.attention(query, kv, batch_, options_, a.attention);
      multiply_on_cpu(attended(a), o_weight_, o_targets(), a.product);
      device_.rms_norm_add_norm(a.product, norm_, 1e-6f, a.residual, next_norm_, 1e-5f, a.hidden);
      multiply_on_cpu(a.hidden, gate_up_weight_, gate_up_targets(), a.gate_up);
      device_.gelu_tanh_mul(a.gate_up, a.gated);
      multiply_on_cpu(a.gated, down_weight_, down_targets(), a.product);
      device_.rms_norm_add_norm(a.product, next_norm_, 1e-6f, a.residual, norm_, 1e-5f, a.hidden);
    }
    device_.linear(a.hidden, head_weight_, a.logits);
  }

  std::vector<emulated::Operation> operations(const Activations& a) const {
    const auto [query, key, value] = parts(a);
    const PagedKv kv{a.key, a.value};
    const auto add_norm = [&](const Tensor& first, const Tensor& next) {
      return emulated::AddNormArgs{.norm = emulated::norm_args(a.product, first, 1e-6f, a.hidden),
                                   .residual = emulated::rows_of(a.residual),
                                   .next_weight = next.as<float>(),
                                   .next_eps = 1e-5f};
    };
    std::vector<emulated::Operation> operations = {
        emulated::norm_args(a.residual, norm_, 1e-6f, a.hidden)};
    for (int layer = 0; layer < GetParam().layers; ++layer) {
      operations.insert(
          operations.end(),
          {product(a.hidden, qkv_weight_, qkv_targets(), a.qkv),
           emulated::rotary_store_args(query, key, value, positions_, cos_, sin_, store_slots_, kv),
           emulated::attention_args(query, kv, batch_, options_, a.attention),
           product(attended(a), o_weight_, o_targets(), a.product), add_norm(norm_, next_norm_),
           gated_product(a), product(a.gated, down_weight_, down_targets(), a.product),
           add_norm(next_norm_, norm_)});
    }
    operations.emplace_back(emulated::linear_args(a.hidden, head_weight_, a.logits));
    return operations;
  }

  void run_as_program(const Activations& a) {
    std::vector<char> scratch(32 << 20);
    emulated::ProgramSync sync{};
    const emulated::ProgramLimits limits{.blocks = GetParam().blocks,
                                         .shared_bytes = sizeof(emulated::shared),
                                         .scratch = scratch.data(),
                                         .scratch_bytes = scratch.size(),
                                         .sync = &sync};
    const std::vector<emulated::Operation> steps = operations(a);
    ASSERT_TRUE(std::ranges::all_of(
        steps, [&](const auto& step) { return emulated::is_programmable(step, limits); }));
    const emulated::Program program = emulated::compile(steps, limits);
    ASSERT_TRUE(emulated::can_launch(program, limits));
    EXPECT_TRUE(program.copies.empty()) << "two norms a layer";
    std::vector<CUtensorMap> maps(program.products.size());
    for (size_t i = 0; i < maps.size(); ++i) {
      const emulated::ProgramProduct& product = program.products[i];
      const emulated::MatrixMap map{.data = static_cast<const uint16_t*>(product.weight),
                                    .rows = product.m,
                                    .columns = product.n,
                                    .stride = product.n,
                                    .box_rows = emulated::kProgramBoxRows};
      std::memcpy(&maps[i], &map, sizeof(map));
    }
    const std::vector<std::byte> table = program.table(maps);
    emulated::launch_program({}, program, table.data(), limits);
    // As the next launch must find it.
    EXPECT_EQ(sync.arrivals, 0u);
    EXPECT_EQ(sync.exits, 0u);
    EXPECT_TRUE(std::ranges::all_of(sync.claims, [](uint32_t claims) { return claims == 0; }));
  }

  // ||got - want|| / ||want|| of rows whose results have a meaning.
  template <typename T>
  double distance(const Tensor& got, const Tensor& want, const std::vector<int>& rows) const {
    const int64_t width = got.numel() / got.dim(0);
    double difference = 0.0;
    double size = 0.0;
    for (int64_t row : rows) {
      for (int64_t i = row * width; i < (row + 1) * width; ++i) {
        const double a = static_cast<float>(got.as<T>()[i]);
        const double b = static_cast<float>(want.as<T>()[i]);
        difference += (a - b) * (a - b);
        size += b * b;
      }
    }
    return std::sqrt(difference / size);
  }

  Device& device_ = shared_device("cpu");
  std::mt19937 random_{1};
  std::deque<DeviceTensor> kept_;
  Tensor qkv_weight_, o_weight_, gate_up_weight_, down_weight_, head_weight_, norm_, next_norm_;
  Tensor cos_, sin_, residual_, positions_, store_slots_;
  std::vector<LoraEntry> entries_;
  LoraRows lora_rows_;
  std::vector<int> lengths_, slots_;
  Values keys_, values_;
  AttentionBatch batch_;
  AttentionOptions options_;
};

TEST_P(EmulatedProgramTest, LayersAreLikeOnTheCpu) {
  const LayersShape& s = GetParam();
  const Activations want = activations();
  run_on_cpu(want);
  const Activations got = activations();
  run_as_program(got);
  std::vector<int> rows;
  for (int row = 0; row < s.rows; ++row) {
    if (row != kFillRow) rows.push_back(row);
  }
  // Values between two of bfloat16 may fall on either side, in every layer; with adapters the CPU
  // rounds a product before it adds the low-rank part.
  const double bound = (has_adapters() ? 4e-3 : 2.5e-3) * s.layers + 2e-3;
  EXPECT_LT(distance<float>(got.residual, want.residual, rows), bound);
  EXPECT_LT(distance<BFloat16>(got.hidden, want.hidden, rows), bound);
  EXPECT_LT(distance<float>(got.logits, want.logits, rows), bound);
  const int64_t slots = got.key.dim(0) * kBlockSize;
  const auto by_slot = [&](const Tensor& pages) { return pages.view({slots, kv_size()}); };
  std::vector<int> new_slots;
  for (int row : rows) new_slots.push_back(slots_[static_cast<size_t>(row)]);
  EXPECT_LT(distance<BFloat16>(by_slot(got.key), by_slot(want.key), new_slots), bound);
  EXPECT_LT(distance<BFloat16>(by_slot(got.value), by_slot(want.value), new_slots), bound);
  // Nothing else in the pages has changed.
  std::vector<char> is_new(static_cast<size_t>(slots));
  for (int slot : new_slots) is_new[static_cast<size_t>(slot)] = 1;
  for (int64_t at = 0; at < slots; ++at) {
    if (is_new[static_cast<size_t>(at)] != 0) continue;
    for (const auto& [a, b] : {std::pair{got.key, want.key}, std::pair{got.value, want.value}}) {
      ASSERT_EQ(std::memcmp(a.as<BFloat16>() + at * kv_size(), b.as<BFloat16>() + at * kv_size(),
                            static_cast<size_t>(kv_size()) * sizeof(BFloat16)),
                0)
          << "slot " << at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, EmulatedProgramTest,
    ::testing::Values(
        LayersShape{"Tiny", 1, 64, 128, 4, 2, 16, 0, 40, 4, 3},
        LayersShape{"WindowAndThreeRows", 3, 128, 192, 6, 2, 32, 20, 100, 5, 2},
        LayersShape{"MoreRowsThanBlocks", 8, 576, 1088, 5, 1, 64, 0, 200, 3, 1},
        LayersShape{"OddHeadSize", 8, 1024, 512, 4, 4, 80, 0, 33, 7, 1},
        LayersShape{"TwoRowsOf2b", 2, 2304, 256, 8, 4, 256, 100, 200, 5, 1},
        LayersShape{"Of2b", 1, 2304, 512, 8, 4, 256, 0, 500, 6, 1},
        LayersShape{"Of9b", 1, 3584, 256, 16, 8, 256, 4096, 300, 9, 1},
        LayersShape{"TilesOfTwoBlocks", 1, 192, 1536, 4, 2, 256, 0, 70, 9, 2},
        LayersShape{"TilesOfTwoBlocksFourRows", 4, 192, 1536, 4, 2, 256, 0, 70, 9, 2},
        LayersShape{"Wide", 1, 4608, 128, 4, 2, 128, 0, 70, 4, 1},
        LayersShape{"ManyBlocks", 4, 512, 512, 8, 4, 128, 0, 150, 40, 2},
        LayersShape{"SixteenRows", 16, 576, 1088, 8, 4, 64, 0, 150, 7, 1},
        LayersShape{"ElevenRowsOf9b", 11, 3584, 256, 16, 8, 256, 4096, 60, 5, 1},
        LayersShape{"NineRowsOfManyBlocks", 9, 512, 4608, 4, 2, 128, 60, 90, 40, 1},
        LayersShape{"LongSequences", 9, 64, 128, 4, 2, 16, 0, 1500, 3, 1},
        LayersShape{"OneAdapter", 1, 192, 1536, 4, 2, 256, 0, 70, 9, 2, {16}},
        LayersShape{"OneAdapterOf2b", 1, 2304, 512, 8, 4, 256, 0, 40, 12, 1, {8}},
        LayersShape{"ThreeAdapters", 8, 192, 1536, 4, 2, 64, 0, 70, 9, 2, {33, 4, 16}},
        LayersShape{"AdaptersAndFewBlocks", 6, 576, 1088, 5, 1, 64, 0, 50, 3, 2, {500, 9}}),
    [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace lorax::testing

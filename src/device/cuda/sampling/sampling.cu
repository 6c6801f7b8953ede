// Draws of tokens and the largest logits: one block per row, which it reads from the L2 cache some
// 3 to 15 times. Sums are of integers (weights in units of 2^-40), so that they are the same in
// whatever order the threads add.
#include <cfloat>

#include "device/cuda/ops/kernels.h"

namespace lorax::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kDigitBits = 11;
constexpr int kDigits = 1 << kDigitBits;
constexpr float kUnits = 0x1p40f;

using uint64 = unsigned long long;

// A number whose order is that of the float.
__device__ uint32_t ordered(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes 0
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}

// Ascending: descending logits. With the id in the lower half no two are equal.
__device__ uint64 descending(float logit) { return ordered(-logit); }
__device__ uint64 descending(float logit, int id) {
  return descending(logit) << 32 | static_cast<uint32_t>(id);
}

struct Shared {
  // A sum of measures per digit, as two halves that have atomic additions of their own.
  uint32_t low[kDigits];
  uint32_t high[kDigits];
  uint32_t counts[kDigits];
  uint64 warps[kWarps];
  uint64 below;
  int digit;
  int slot;
};

// Combines a value of each thread into one that all get.
template <typename Combine>
__device__ uint64 block_reduce(Shared& shared, uint64 value, const Combine& combine) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  if (threadIdx.x % 32 == 0) shared.warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared.warps[0];
  for (int warp = 1; warp < kWarps; ++warp) value = combine(value, shared.warps[warp]);
  __syncthreads();
  return value;
}

__device__ uint64 block_sum(Shared& shared, uint64 value) {
  return block_reduce(shared, value, [](uint64 a, uint64 b) { return a + b; });
}
__device__ uint64 block_max(Shared& shared, uint64 value) {
  return block_reduce(shared, value, [](uint64 a, uint64 b) { return a > b ? a : b; });
}

// The sum over the threads before this one.
__device__ uint64 block_sum_before(Shared& shared, uint64 value) {
  const int lane = threadIdx.x % 32;
  uint64 sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64 other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == 31) shared.warps[threadIdx.x / 32] = sum;
  __syncthreads();
  uint64 before = sum - value;
  for (int warp = 0; warp < static_cast<int>(threadIdx.x / 32); ++warp) {
    before += shared.warps[warp];
  }
  __syncthreads();
  return before;
}

__device__ void add(Shared& shared, int digit, uint64 measure) {
  atomicAdd(&shared.counts[digit], 1u);
  const uint32_t low = static_cast<uint32_t>(measure);
  const uint32_t before = atomicAdd(&shared.low[digit], low);
  const bool wraps = static_cast<uint32_t>(before + low) < before;
  const uint32_t high = static_cast<uint32_t>(measure >> 32) + (wraps ? 1u : 0u);
  if (high != 0) atomicAdd(&shared.high[digit], high);
}

// element(i, key) gives a key in [first, last] and returns a measure; 0: it does not count. In
// ascending order of keys the running sum of measures reaches `target` at some element: returns a
// number that is at least its key and less than the next one. `last` if it never does.
template <typename Element>
__device__ uint64 find_cut(Shared& shared, int n, uint64 first, uint64 last, uint64 target,
                           const Element& element) {
  uint64 below = 0;
  while (true) {
    const int bits = last > first ? 64 - __clzll(static_cast<long long>(last - first)) : 1;
    const int shift = bits > kDigitBits ? bits - kDigitBits : 0;
    for (int i = threadIdx.x; i < kDigits; i += kThreads) {
      shared.low[i] = shared.high[i] = shared.counts[i] = 0;
    }
    if (threadIdx.x == 0) shared.digit = -1;
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += kThreads) {
      uint64 key;
      const uint64 measure = element(i, key);
      if (measure != 0 && key >= first && key <= last) {
        add(shared, static_cast<int>((key - first) >> shift), measure);
      }
    }
    __syncthreads();
    // Two digits to a thread.
    const int digit = 2 * static_cast<int>(threadIdx.x);
    const auto sum = [&](int i) { return uint64{shared.high[i]} << 32 | shared.low[i]; };
    const uint64 even = sum(digit), odd = sum(digit + 1);
    const uint64 before = below + block_sum_before(shared, even + odd);
    if (before < target && target <= before + even + odd) {
      const bool second = target > before + even;
      shared.digit = digit + (second ? 1 : 0);
      shared.below = before + (second ? even : 0);
    }
    __syncthreads();
    if (shared.digit < 0) return last;
    first += static_cast<uint64>(shared.digit) << shift;
    const uint64 end = first + ((uint64{1} << shift) - 1);
    last = end < last ? end : last;
    below = shared.below;
    const bool is_found = shift == 0 || shared.counts[shared.digit] == 1;
    __syncthreads();
    if (is_found) return last;
  }
}

struct Row {
  const float* x;
  int n;
  Watermark mark;
  const uint32_t* allowed;

  __device__ float logit(int i) const {
    if (allowed != nullptr && (allowed[i / 32] >> (i % 32) & 1) == 0) return -INFINITY;
    const float value = x[i];
    const bool gains = mark.delta != 0.0f && is_green(mark.key, mark.share, i);
    return gains ? value + mark.delta : value;
  }
};

// The ends of a row's order: descending(logit, id) of the largest and of the least logit above
// -infinity.
struct Range {
  bool usable;
  uint64 first;
  uint64 last;
};

__device__ Range range_of(Shared& shared, const Row& row) {
  uint64 first = UINT64_MAX, last = 0;
  bool is_bad = false;
  for (int i = threadIdx.x; i < row.n; i += kThreads) {
    const float logit = row.logit(i);
    if (isnan(logit) || logit == INFINITY) is_bad = true;
    if (logit == -INFINITY) continue;
    const uint64 key = descending(logit, i);
    first = key < first ? key : first;
    last = key > last ? key : last;
  }
  Range range;
  range.first = ~block_max(shared, ~first);
  range.last = block_max(shared, last);
  range.usable = block_max(shared, is_bad ? 1 : 0) == 0 && range.first <= range.last;
  return range;
}

// What is left of a row after some cuts.
struct Left {
  Row row;
  float max;
  float inverse_temperature;
  uint64 top_k_last = UINT64_MAX;      // of descending(logit)
  uint64 top_p_last = UINT64_MAX;      // of descending(logit, id)
  uint32_t typical_last = UINT32_MAX;  // of typical_key
  float mean = 0.0f;
  float least_weight = 0.0f;

  // Not to be fused with what follows: each pass must find the same.
  __device__ float distance(float logit) const {
    return __fmul_rn(max - logit, inverse_temperature);
  }
  __device__ uint32_t typical_key(float d) const { return __float_as_uint(fabsf(d - mean)); }

  // The weight of id i, 0 if it is not left.
  __device__ float weight(int i, float& logit, float& d) const {
    logit = row.logit(i);
    const uint64 key = descending(logit, i);
    if (key >> 32 > top_k_last || key > top_p_last) return 0.0f;
    d = distance(logit);
    if (typical_last != UINT32_MAX && typical_key(d) > typical_last) return 0.0f;
    const float weight = expf(-d);
    return weight >= least_weight ? weight : 0.0f;
  }
  __device__ float weight(int i) const {
    float logit, d;
    return weight(i, logit, d);
  }
};

__device__ uint64 units_of(float weight) { return __float2ull_rn(weight * kUnits); }

// A share of a sum, at least 1.
__device__ uint64 share_of(float share, uint64 sum) {
  const uint64 units =
      static_cast<uint64>(ceil(static_cast<double>(share) * static_cast<double>(sum)));
  return units == 0 ? 1 : units;
}

__device__ void cut_top_k(Shared& shared, Left& left, const Range& range, int k) {
  left.top_k_last = find_cut(shared, left.row.n, range.first >> 32, range.last >> 32,
                             static_cast<uint64>(k), [&](int i, uint64& key) -> uint64 {
                               const float logit = left.row.logit(i);
                               key = descending(logit);
                               return logit > -INFINITY ? 1 : 0;
                             });
}

// The sum of what is left, and of d * weight.
__device__ void sum_left(Shared& shared, const Left& left, uint64& weights, uint64& distances) {
  weights = 0;
  distances = 0;
  for (int i = threadIdx.x; i < left.row.n; i += kThreads) {
    float logit, d;
    const float weight = left.weight(i, logit, d);
    if (weight == 0.0f) continue;
    weights += units_of(weight);
    distances += units_of(d * weight);
  }
  weights = block_sum(shared, weights);
  distances = block_sum(shared, distances);
}

__device__ void cut_top_p(Shared& shared, Left& left, const Range& range, float p) {
  uint64 weights, distances;
  sum_left(shared, left, weights, distances);
  const Left before = left;
  left.top_p_last = find_cut(shared, left.row.n, range.first, range.last, share_of(p, weights),
                             [&](int i, uint64& key) -> uint64 {
                               float logit, d;
                               const float weight = before.weight(i, logit, d);
                               key = descending(logit, i);
                               return units_of(weight);
                             });
}

__device__ void cut_typical(Shared& shared, Left& left, float p) {
  uint64 weights, distances;
  sum_left(shared, left, weights, distances);
  left.mean = static_cast<float>(static_cast<double>(distances) / static_cast<double>(weights));
  const Left before = left;
  const uint64 cut = find_cut(shared, left.row.n, 0, 0x7f800000u, share_of(p, weights),
                              [&](int i, uint64& key) -> uint64 {
                                float logit, d = 0.0f;
                                const float weight = before.weight(i, logit, d);
                                key = before.typical_key(d);
                                return units_of(weight);
                              });
  left.typical_last = static_cast<uint32_t>(cut);
}

__device__ void cut_min_p(Shared& shared, Left& left, float p) {
  float most = 0.0f;
  for (int i = threadIdx.x; i < left.row.n; i += kThreads) most = fmaxf(most, left.weight(i));
  // Floats that are not negative are ordered as their bits are.
  const uint64 bits = block_max(shared, __float_as_uint(most));
  left.least_weight = p * __uint_as_float(static_cast<uint32_t>(bits));
}

// The id at which the running sum of what is left exceeds unit times all of it: of 32 pieces of the
// row the one where that happens, then of 32 pieces of the piece, and so on.
__device__ int draw(Shared& shared, const Left& left, double unit, int otherwise) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  int begin = 0, end = left.row.n;
  uint64 rest = 0;
  bool has_rest = false;
  while (end - begin > 1 || !has_rest) {
    const int piece = (end - begin + kWarps - 1) / kWarps;
    const int first = begin + warp * piece;
    const int last = first + piece < end ? first + piece : end;
    uint64 sum = 0;
    for (int i = first + lane; i < last; i += 32) sum += units_of(left.weight(i));
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0) shared.warps[warp] = sum;
    __syncthreads();
    if (!has_rest) {
      uint64 total = 0;
      for (uint64 part : shared.warps) total += part;
      if (total == 0) return otherwise;
      rest = static_cast<uint64>(unit * static_cast<double>(total));
      rest = rest < total ? rest : total - 1;
      has_rest = true;
    }
    int chosen = 0;
    while (rest >= shared.warps[chosen]) rest -= shared.warps[chosen++];
    begin += chosen * piece;
    end = begin + piece < end ? begin + piece : end;
    __syncthreads();
  }
  return begin;
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const float* logits, int64_t stride, int width, const SampledRow* rows,
                  int32_t* ids) {
  __shared__ Shared shared;
  const SampledRow choice = rows[blockIdx.x];
  Left left;
  left.row = {logits + choice.row * stride, width, choice.watermark, choice.allowed};
  const Range range = range_of(shared, left.row);
  const int best = static_cast<int>(range.first & 0xffffffffu);
  int id = -1;
  if (range.usable && choice.temperature == 0.0f) {
    id = best;
  } else if (range.usable) {
    left.max = left.row.logit(best);
    left.inverse_temperature = fminf(1.0f / choice.temperature, FLT_MAX);
    if (choice.top_k > 0 && choice.top_k < width) cut_top_k(shared, left, range, choice.top_k);
    if (choice.top_p < 1.0f) cut_top_p(shared, left, range, choice.top_p);
    if (choice.typical_p < 1.0f) cut_typical(shared, left, choice.typical_p);
    if (choice.min_p > 0.0f) cut_min_p(shared, left, choice.min_p);
    id = draw(shared, left, choice.unit, best);
  }
  if (threadIdx.x == 0) ids[choice.row] = id;
}

__global__ void __launch_bounds__(kThreads)
    top_kernel(const float* logits, int64_t stride, int width, const TopRow* rows, TopLogit* out) {
  __shared__ Shared shared;
  const TopRow request = rows[blockIdx.x];
  TopLogit* to = out + request.offset;
  for (int i = threadIdx.x; i < request.count; i += kThreads) to[i] = TopLogit{-1, 0.0f};
  if (request.count == 0) return;
  const Row row = {logits + request.row * stride, width, Watermark(), nullptr};
  const Range range = range_of(shared, row);
  if (range.first > range.last) return;  // nothing above -infinity
  const auto is_candidate = [](float logit) { return logit > -INFINITY; };
  const uint64 last =
      find_cut(shared, width, range.first, range.last, static_cast<uint64>(request.count),
               [&](int i, uint64& key) -> uint64 {
                 const float logit = row.logit(i);
                 key = descending(logit, i);
                 return is_candidate(logit) ? 1 : 0;
               });
  if (threadIdx.x == 0) shared.slot = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < width; i += kThreads) {
    const float logit = row.logit(i);
    if (is_candidate(logit) && descending(logit, i) <= last) {
      to[atomicAdd(&shared.slot, 1)] = {i, logit};
    }
  }
}

}  // namespace

void sample(cudaStream_t stream, const LogitRows& logits, DeviceList<const SampledRow> rows,
            int32_t* ids) {
  if (rows.size == 0) return;
  sample_kernel<<<static_cast<unsigned>(rows.size), kThreads, 0, stream>>>(
      logits.data, logits.stride, static_cast<int>(logits.width), rows.data, ids);
}

void top_logits(cudaStream_t stream, const LogitRows& logits, DeviceList<const TopRow> rows,
                TopLogit* out) {
  if (rows.size == 0) return;
  top_kernel<<<static_cast<unsigned>(rows.size), kThreads, 0, stream>>>(
      logits.data, logits.stride, static_cast<int>(logits.width), rows.data, out);
}

}  // namespace lorax::cuda

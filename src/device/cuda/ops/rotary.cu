// Rotary embedding, alone and, for queries and keys, together with the way of keys and values into
// their pages.
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/vector.cuh"
#include "device/cuda/tile/rotate.cuh"

namespace lorax::cuda {
namespace {

constexpr int kThreads = 128;

template <typename T, int kWidth>
__global__ void rotary_kernel(T* x, int64_t stride, int64_t n_vectors, int64_t heads, int64_t half,
                              const int32_t* positions, const float* cos, const float* sin) {
  start_next();
  wait_for_previous();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= n_vectors) return;
  const int64_t per_head = half / kWidth;
  const int64_t i = index % per_head * kWidth;
  const int64_t head = index / per_head % heads;
  const int64_t row = index / (per_head * heads);
  const int64_t angle = int64_t{positions[row]} * half + i;
  T* first = x + row * stride + head * 2 * half + i;
  T* second = first + half;
  float x1[kWidth], x2[kWidth], c[kWidth], s[kWidth], y1[kWidth], y2[kWidth];
  load(first, x1);
  load(second, x2);
  load(cos + angle, c);
  load(sin + angle, s);
  rotate<kWidth>(x1, x2, c, s, y1, y2);
  store(y1, first);
  store(y2, second);
}

// A thread takes kWidth elements of the first half of a head and their partners in the second.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    rotary_store_kernel(const __grid_constant__ RotaryStoreArgs args) {
  start_next();
  const int half = static_cast<int>(args.head_size) / 2;
  const int per_head = half / kWidth;
  const int row_heads = static_cast<int>(args.heads + 2 * args.kv_heads);
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = index / (per_head * row_heads);
  if (row >= args.rows) return wait_for_previous();
  const int rest = static_cast<int>(index - row * (per_head * row_heads));
  const int head = rest / per_head;
  const int i = rest % per_head * kWidth;
  const int kv_head = head - static_cast<int>(args.heads);  // negative: a query's
  const int kv_heads = static_cast<int>(args.kv_heads);
  const bool is_value = kv_head >= kv_heads;
  float c[kWidth], s[kWidth];
  const int64_t angle = int64_t{args.positions[row]} * half + i;
  load(args.cos + angle, c);
  load(args.sin + angle, s);
  const Rows& rows = kv_head < 0 ? args.q : is_value ? args.v : args.k;
  const int head_of_rows = kv_head < 0 ? head : is_value ? kv_head - kv_heads : kv_head;
  T* first = static_cast<T*>(rows.data) + row * rows.stride + head_of_rows * 2 * half + i;
  T* to = first;
  if (kv_head >= 0) {
    const int64_t slot = args.slots[row];
    if (slot < 0) return wait_for_previous();
    to = static_cast<T*>(is_value ? args.value : args.key) +
         (slot * kv_heads + head_of_rows) * 2 * half + i;
  }
  wait_for_previous();
  using Vector = Packed<T, kWidth>;
  if (is_value) {
    *reinterpret_cast<Vector*>(to) = *reinterpret_cast<const Vector*>(first);
    *reinterpret_cast<Vector*>(to + half) = *reinterpret_cast<const Vector*>(first + half);
    return;
  }
  float x1[kWidth], x2[kWidth], y1[kWidth], y2[kWidth];
  load(first, x1);
  load(first + half, x2);
  rotate<kWidth>(x1, x2, c, s, y1, y2);
  store(y1, to);
  store(y2, to + half);
}

}  // namespace

void rotary(Stream stream, Rows x, int64_t rows, int64_t heads, int64_t head_size,
            const int32_t* positions, const float* cos, const float* sin) {
  if (rows == 0) return;
  const int64_t half = head_size / 2;
  visit_model_dtype(x.dtype, [&]<typename T>(std::type_identity<T>) {
    visit_width(fours(x, half), [&](auto vector_width) {
      constexpr int kWidth = decltype(vector_width)::value;
      const int64_t n = rows * heads * (half / kWidth);
      launch(stream, blocks_for(n, kThreads), kThreads, 0, rotary_kernel<T, kWidth>,
             static_cast<T*>(x.data), x.stride, n, heads, half, positions, cos, sin);
    });
  });
}

void rotary_store(Stream stream, const RotaryStoreArgs& args) {
  if (args.rows == 0) return;
  const int64_t half = args.head_size / 2;
  const Rows key{args.key, args.q.dtype, args.head_size};
  const Rows value{args.value, args.q.dtype, args.head_size};
  const bool by_four = fours(args.q, half) && fours(args.k, half) && fours(args.v, half) &&
                       fours(key, half) && fours(value, half);
  visit_model_dtype(args.q.dtype, [&]<typename T>(std::type_identity<T>) {
    visit_width(by_four, [&](auto vector_width) {
      constexpr int kWidth = decltype(vector_width)::value;
      const int64_t n = args.rows * (args.heads + 2 * args.kv_heads) * (half / kWidth);
      launch(stream, blocks_for(n, kThreads), kThreads, 0, rotary_store_kernel<T, kWidth>, args);
    });
  });
}

}  // namespace lorax::cuda

// The operations whose elements do not depend on each other.
#include "device/cuda/ops/kernels.h"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/vector.cuh"
#include "device/cuda/tile/gelu.cuh"

namespace lorax::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, int kWidth>
__global__ void embedding_kernel(const int32_t* ids, const T* table, int64_t table_stride,
                                 int64_t n_vectors, int64_t width, float scale, float* out,
                                 int64_t out_stride) {
  start_next();
  wait_for_previous();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= n_vectors) return;
  const int64_t per_row = width / kWidth;
  const int64_t row = index / per_row;
  const int64_t column = index % per_row * kWidth;
  float values[kWidth];
  load(table + int64_t{ids[row]} * table_stride + column, values);
#pragma unroll
  for (float& value : values) value *= scale;
  store(values, out + row * out_stride + column);
}

// A block for each row, which most often finds nothing to do.
template <typename T>
__global__ void token_embedding_kernel(const int32_t* ids, const int32_t* tokens, int64_t n_tokens,
                                       const T* table, int64_t table_stride, int64_t width,
                                       float scale, float* out, int64_t out_stride) {
  start_next();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const int32_t id = ids[row];
  int64_t first = 0, last = n_tokens;
  while (first < last) {
    const int64_t middle = (first + last) / 2;
    if (tokens[middle] < id) {
      first = middle + 1;
    } else {
      last = middle;
    }
  }
  if (first == n_tokens || tokens[first] != id) return;
  for (int64_t column = threadIdx.x; column < width; column += kThreads) {
    float value[1];
    load(table + first * table_stride + column, value);
    out[row * out_stride + column] = value[0] * scale;
  }
}

__global__ void scatter_columns_kernel(const float* from, int64_t from_stride,
                                       const int32_t* columns, int64_t n_columns, int64_t n,
                                       float* out, int64_t out_stride) {
  start_next();
  wait_for_previous();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= n) return;
  const int64_t row = index / n_columns, column = index % n_columns;
  out[row * out_stride + columns[column]] = from[row * from_stride + column];
}

__global__ void fill_in_ids_kernel(int32_t* ids, int64_t n, const int32_t* from) {
  start_next();
  wait_for_previous();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= n) return;
  const int32_t id = ids[index];
  if (id < 0) ids[index] = max(from[-1 - id], 0);
}

template <typename T, int kWidth>
__global__ void gelu_tanh_mul_kernel(const T* gate_up, int64_t gate_up_stride, T* out,
                                     int64_t out_stride, int64_t n_vectors, int64_t width) {
  start_next();
  wait_for_previous();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= n_vectors) return;
  const int64_t per_row = width / kWidth;
  const int64_t row = index / per_row;
  const int64_t column = index % per_row * kWidth;
  const T* from = gate_up + row * gate_up_stride + column;
  float gate[kWidth], up[kWidth], product[kWidth];
  load(from, gate);
  load(from + width, up);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    product[j] = gelu_tanh_mul<T>(gate[j], up[j]);
  }
  store(product, out + row * out_stride + column);
}

template <typename T, int kWidth>
__global__ void add_silu_kernel(const T* x, int64_t x_stride, const T* h, int64_t h_stride,
                                const T* bias, T* out, int64_t out_stride, int64_t n_vectors,
                                int64_t width) {
  start_next();
  wait_for_previous();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= n_vectors) return;
  const int64_t per_row = width / kWidth;
  const int64_t row = index / per_row;
  const int64_t column = index % per_row * kWidth;
  float values[kWidth], inner[kWidth], offset[kWidth];
  load(x + row * x_stride + column, values);
  load(h + row * h_stride + column, inner);
  load(bias + column, offset);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const float z = inner[j] + offset[j];
    values[j] += z / (1.0f + expf(-z));
  }
  store(values, out + row * out_stride + column);
}

template <int kWidth>
__global__ void softcap_kernel(float* x, int64_t n_vectors, float cap) {
  start_next();
  wait_for_previous();
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= n_vectors) return;
  float values[kWidth];
  load(x + index * kWidth, values);
#pragma unroll
  for (float& value : values) value = cap * tanhf(value / cap);
  store(values, x + index * kWidth);
}

// Bytes move as Units of 16, 8, 4 or 2 bytes. kScatter: indices are slots of `to`; otherwise rows
// of `from`. Strides in Units.
template <typename Unit, typename Index, bool kScatter>
__global__ void move_rows_kernel(const Unit* from, int64_t from_stride, const Index* indices,
                                 int64_t n_units, int64_t row_units, Unit* to, int64_t to_stride) {
  start_next();
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n_units) return;
  const int64_t row = i / row_units;
  const int64_t column = i % row_units;
  const int64_t index = indices[row];
  if (kScatter && index < 0) return;
  const int64_t from_row = kScatter ? row : index;
  const int64_t to_row = kScatter ? index : row;
  to[to_row * to_stride + column] = from[from_row * from_stride + column];
}

template <typename Index, bool kScatter>
void move_rows(Stream stream, const void* from, int64_t from_stride, const Index* indices,
               int64_t rows, int64_t row_bytes, void* to, int64_t to_stride) {
  if (rows == 0 || row_bytes == 0) return;
  auto run = [&]<typename Unit>(Unit) {
    const int64_t size = sizeof(Unit);
    const int64_t n_units = rows * (row_bytes / size);
    launch(stream, blocks_for(n_units, kThreads), kThreads, 0,
           move_rows_kernel<Unit, Index, kScatter>, static_cast<const Unit*>(from),
           from_stride / size, indices, n_units, row_bytes / size, static_cast<Unit*>(to),
           to_stride / size);
  };
  const uintptr_t all = reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to) |
                        static_cast<uintptr_t>(from_stride | to_stride | row_bytes);
  if (all % 16 == 0) return run(uint4());
  if (all % 8 == 0) return run(uint64_t());
  if (all % 4 == 0) return run(uint32_t());
  run(uint16_t());
}

}  // namespace

void embedding(Stream stream, const int32_t* ids, Rows table, int64_t rows, int64_t width,
               float scale, Rows out) {
  if (rows == 0) return;
  visit_model_dtype(table.dtype, [&]<typename T>(std::type_identity<T>) {
    visit_width(fours(table, width) && fours(out, width), [&](auto vector_width) {
      constexpr int kWidth = decltype(vector_width)::value;
      const int64_t n = rows * (width / kWidth);
      launch(stream, blocks_for(n, kThreads), kThreads, 0, embedding_kernel<T, kWidth>, ids,
             static_cast<const T*>(table.data), table.stride, n, width, scale,
             static_cast<float*>(out.data), out.stride);
    });
  });
}

void token_embedding(Stream stream, const int32_t* ids, const int32_t* tokens, int64_t n_tokens,
                     Rows table, int64_t rows, int64_t width, float scale, Rows out) {
  if (rows == 0) return;
  visit_model_dtype(table.dtype, [&]<typename T>(std::type_identity<T>) {
    launch(stream, static_cast<unsigned>(rows), kThreads, 0, token_embedding_kernel<T>, ids, tokens,
           n_tokens, static_cast<const T*>(table.data), table.stride, width, scale,
           static_cast<float*>(out.data), out.stride);
  });
}

void scatter_columns(Stream stream, Rows from, const int32_t* columns, int64_t rows,
                     int64_t n_columns, Rows out) {
  const int64_t n = rows * n_columns;
  if (n == 0) return;
  launch(stream, blocks_for(n, kThreads), kThreads, 0, scatter_columns_kernel,
         static_cast<const float*>(from.data), from.stride, columns, n_columns, n,
         static_cast<float*>(out.data), out.stride);
}

void fill_in_ids(Stream stream, int32_t* ids, int64_t n, const int32_t* from) {
  if (n == 0) return;
  launch(stream, blocks_for(n, kThreads), kThreads, 0, fill_in_ids_kernel, ids, n, from);
}

void gelu_tanh_mul(Stream stream, Rows gate_up, Rows out, int64_t rows, int64_t width) {
  if (rows == 0) return;
  visit_model_dtype(out.dtype, [&]<typename T>(std::type_identity<T>) {
    visit_width(fours(gate_up, width) && fours(out, width), [&](auto vector_width) {
      constexpr int kWidth = decltype(vector_width)::value;
      const int64_t n = rows * (width / kWidth);
      launch(stream, blocks_for(n, kThreads), kThreads, 0, gelu_tanh_mul_kernel<T, kWidth>,
             static_cast<const T*>(gate_up.data), gate_up.stride, static_cast<T*>(out.data),
             out.stride, n, width);
    });
  });
}

void add_silu(Stream stream, Rows x, Rows h, const void* bias, Rows out, int64_t rows,
              int64_t width) {
  if (rows == 0) return;
  const Rows offset{const_cast<void*>(bias), x.dtype, 0};
  const bool by_four =
      fours(x, width) && fours(h, width) && fours(offset, width) && fours(out, width);
  visit_model_dtype(x.dtype, [&]<typename T>(std::type_identity<T>) {
    visit_width(by_four, [&](auto vector_width) {
      constexpr int kWidth = decltype(vector_width)::value;
      const int64_t n = rows * (width / kWidth);
      launch(stream, blocks_for(n, kThreads), kThreads, 0, add_silu_kernel<T, kWidth>,
             static_cast<const T*>(x.data), x.stride, static_cast<const T*>(h.data), h.stride,
             static_cast<const T*>(bias), static_cast<T*>(out.data), out.stride, n, width);
    });
  });
}

void softcap(Stream stream, float* x, int64_t n, float cap) {
  if (n == 0) return;
  visit_width(fours({x, DType::kFloat32, 4}, n), [&](auto vector_width) {
    constexpr int kWidth = decltype(vector_width)::value;
    launch(stream, blocks_for(n / kWidth, kThreads), kThreads, 0, softcap_kernel<kWidth>, x,
           n / kWidth, cap);
  });
}

void scatter_rows(Stream stream, const void* from, int64_t from_stride, const int64_t* slots,
                  int64_t rows, int64_t row_bytes, void* to) {
  move_rows<int64_t, true>(stream, from, from_stride, slots, rows, row_bytes, to, row_bytes);
}

void gather_rows(Stream stream, const void* from, int64_t from_stride, const int32_t* indices,
                 int64_t rows, int64_t row_bytes, void* to, int64_t to_stride) {
  move_rows<int32_t, false>(stream, from, from_stride, indices, rows, row_bytes, to, to_stride);
}

}  // namespace lorax::cuda

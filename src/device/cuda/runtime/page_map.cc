#include "device/cuda/runtime/page_map.h"

#include <cuda_runtime.h>

namespace lorax::cuda {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time: programs need no driver to be linked or to start.
EncodeTiled find_encode_tiled() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                              12000, cudaEnableDefault, &result);
#else
  const cudaError_t status =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &result);
#endif
  const bool there = status == cudaSuccess && result == cudaDriverEntryPointSuccess;
  return there ? reinterpret_cast<EncodeTiled>(function) : nullptr;
}

// bfloat16; sizes in elements, strides (of all dimensions but the first) in bytes.
template <int kDimensions>
bool make_map(CUtensorMap& map, const void* data, const cuuint64_t (&sizes)[kDimensions],
              const cuuint64_t (&strides)[kDimensions - 1], const cuuint32_t (&box)[kDimensions]) {
  static const EncodeTiled encode_tiled = find_encode_tiled();
  if (encode_tiled == nullptr) return false;
  cuuint32_t steps[kDimensions];
  for (cuuint32_t& step : steps) step = 1;
  return encode_tiled(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, kDimensions, const_cast<void*>(data),
                      sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool make_page_map(CUtensorMap& map, const void* pages, int64_t slots, int kv_heads, int d,
                   int tokens) {
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(d), static_cast<cuuint64_t>(kv_heads),
                               static_cast<cuuint64_t>(slots)};
  const cuuint64_t strides[2] = {sizes[0] * 2, sizes[0] * sizes[1] * 2};
  const cuuint32_t box[3] = {64, 1, static_cast<cuuint32_t>(tokens)};
  return make_map(map, pages, sizes, strides, box);
}

bool make_matrix_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns,
                     int64_t stride, int box_rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[2] = {64, static_cast<cuuint32_t>(box_rows)};
  return make_map(map, data, sizes, strides, box);
}

bool make_panel_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns,
                    int box_rows) {
  const cuuint64_t sizes[3] = {64, static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(columns / 64)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(columns) * 2, 128};
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(box_rows), 8};
  return make_map(map, data, sizes, strides, box);
}

}  // namespace lorax::cuda

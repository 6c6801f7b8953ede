#include "device/cuda/products/linear.h"

#include <algorithm>

#include "device/cuda/runtime/cuda_error.h"

namespace lorax::cuda {
namespace {

// Prompts of many lengths would fill the memory of plans without end.
constexpr size_t kMaxPlans = 4096;
// What every pointer and row that reaches cuBLASLt is aligned to: the unit of its fast kernels.
constexpr uint32_t kAlignment = 16;

cudaDataType data_type(DType dtype) {
  return dtype == DType::kFloat32   ? CUDA_R_32F
         : dtype == DType::kFloat16 ? CUDA_R_16F
                                    : CUDA_R_16BF;
}

bool aligned(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0 &&
         static_cast<uint64_t>(stride) * size_of(dtype) % kAlignment == 0;
}

// The operands, every row of them.
bool are_aligned(const LinearArgs& args) {
  return aligned(args.x.data, args.x.stride, args.x.dtype) &&
         aligned(args.weight, args.n, args.x.dtype);
}

// Sets an attribute of a descriptor.
template <typename Descriptor, typename Attribute, typename Value>
void set(cublasStatus_t (*setter)(Descriptor, Attribute, const void*, size_t),
         Descriptor descriptor, Attribute attribute, const Value& value) {
  check(setter(descriptor, attribute, &value, sizeof(value)), "setting an attribute");
}

}  // namespace

Linear::Linear(void* workspace, size_t workspace_bytes, uint32_t* flags)
    : workspace_(workspace), workspace_bytes_(workspace_bytes), flags_(flags) {
  check(cublasLtCreate(&handle_), "cublasLtCreate");
  plans_.reserve(kMaxPlans);
}

Linear::~Linear() { cublasLtDestroy(handle_); }

size_t Linear::ShapeHash::operator()(const Shape& shape) const {
  uint64_t hash = static_cast<uint64_t>(shape.dtype) * 8 + static_cast<uint64_t>(shape.out_dtype);
  for (int64_t value : {shape.rows, shape.m, shape.n, shape.x_stride, shape.out_stride}) {
    hash = (hash ^ static_cast<uint64_t>(value)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return static_cast<size_t>(hash);
}

// cuBLASLt counts columns first, so row-major [rows, n] is its [n, rows], and what we ask for is
// out^T [m, rows] = weight [m, n] * x^T.
Linear::Plan Linear::make_plan(const Shape& shape) const {
  Plan plan{};
  const cudaDataType type = data_type(shape.dtype);
  // Sums in float32; for float32 operands also the products (no TF32).
  check(cublasLtMatmulDescInit(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "cublasLtMatmulDescInit");
  set(cublasLtMatmulDescSetAttribute, &plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  const auto layout = [](cublasLtMatrixLayoutOpaque_t& to, cudaDataType of, int64_t rows,
                         int64_t columns, int64_t stride) {
    check(cublasLtMatrixLayoutInit(&to, of, static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(columns), stride),
          "cublasLtMatrixLayoutInit");
  };
  layout(plan.weight, type, shape.n, shape.m, shape.n);
  layout(plan.x, type, shape.n, shape.rows, shape.x_stride);
  layout(plan.out, data_type(shape.out_dtype), shape.m, shape.rows, shape.out_stride);

  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  const auto prefer = [&preference](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    set(cublasLtMatmulPreferenceSetAttribute, &preference, attribute, value);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes_));
  // Partial sums, if k is split, stay float32.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  for (auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(attribute, kAlignment);
  }
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, &plan.operation, &plan.weight, &plan.x, &plan.out,
                                     &plan.out, &preference, 1, &result, &found);
  plan.usable = status == CUBLAS_STATUS_SUCCESS && found > 0;
  plan.algorithm = result.algo;
  return plan;
}

bool Linear::is_aligned(const LinearArgs& args) {
  return are_aligned(args) && aligned(args.out.data, args.out.stride, args.out.dtype);
}

bool Linear::is_skinny(const LinearArgs& args) {
  return are_aligned(args) && args.x.dtype != DType::kFloat32 && args.rows <= kSkinnyRows;
}

bool Linear::gelu_tanh_mul(Stream stream, const LinearArgs& args) const {
  if (args.rows <= kGatedRows && is_skinny(args)) {
    skinny_linear_gelu_tanh_mul(stream, args);
    check(cudaGetLastError(), "skinny_linear_gelu_tanh_mul");
    return true;
  }
  if (args.rows < kGemmRows || !is_aligned(args)) return false;
  const bool taken =
      gemm_hopper_gelu_tanh_mul(stream, args, {workspace_, workspace_bytes_, flags_});
  check(cudaGetLastError(), "gemm_hopper_gelu_tanh_mul");
  return taken;
}

void Linear::operator()(Stream stream, const LinearArgs& args) {
  if (args.rows == 0 || args.m == 0) return;
  if (is_aligned(args) && linear_hopper(stream, args, {})) {
    check(cudaGetLastError(), "linear_hopper");
    return;
  }
  if (is_skinny(args)) {
    skinny_linear(stream, args);
    check(cudaGetLastError(), "skinny_linear");
    return;
  }
  if (is_aligned(args)) {
    const Shape shape{args.rows,       args.m,       args.n,        args.x.stride,
                      args.out.stride, args.x.dtype, args.out.dtype};
    auto at = plans_.find(shape);
    if (at == plans_.end()) {
      if (plans_.size() >= kMaxPlans) plans_.clear();
      at = plans_.emplace(shape, make_plan(shape)).first;
    }
    Plan& plan = at->second;
    if (plan.usable) {
      const float one = 1.0f;
      const float zero = 0.0f;
      check(cublasLtMatmul(handle_, &plan.operation, &one, args.weight, &plan.weight, args.x.data,
                           &plan.x, &zero, args.out.data, &plan.out, args.out.data, &plan.out,
                           &plan.algorithm, workspace_, workspace_bytes_, stream),
            "cublasLtMatmul");
      return;
    }
  }
  general_linear(stream, args);
  check(cudaGetLastError(), "general_linear");
}

}  // namespace lorax::cuda

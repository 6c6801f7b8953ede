// From a tensor's dtype to a C++ type, for the dtypes that models compute in.
#pragma once

#include <type_traits>
#include <utility>

#include "base/check.h"
#include "base/dtype.h"

namespace lorax::cpu {

// Calls function(std::type_identity<T>()) with T = float or BFloat16.
template <typename Function>
void visit_model_dtype(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat32:
      return std::forward<Function>(function)(std::type_identity<float>());
    case DType::kBFloat16:
      return std::forward<Function>(function)(std::type_identity<BFloat16>());
    default:
      LORAX_CHECK(false, "no model computes in {}", name_of(dtype));
  }
}

}  // namespace lorax::cpu

// From a tensor's dtype to a C++ type, for the dtypes that models compute in.
#pragma once

#include <type_traits>
#include <utility>

#include "base/check.h"
#include "base/dtype.h"

namespace lorax::cpu {

// Calls function(std::type_identity<T>()) with T = float, BFloat16 or Float16.
template <typename Function>
void visit_model_dtype(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::kFloat32:
      return std::forward<Function>(function)(std::type_identity<float>());
    case DType::kBFloat16:
      return std::forward<Function>(function)(std::type_identity<BFloat16>());
    case DType::kFloat16:
      return std::forward<Function>(function)(std::type_identity<Float16>());
    default:
      LORAX_CHECK(false, "no model computes in {}", name_of(dtype));
  }
}

// Calls function(std::type_identity<T>(), std::type_identity<Out>()) for what is read and written:
// one of them is float, or both are the same type.
template <typename Function>
void visit_dtypes(DType dtype, DType out_dtype, const Function& function) {
  visit_model_dtype(dtype, [&]<typename T>(std::type_identity<T> type) {
    if constexpr (std::is_same_v<T, float>) {
      visit_model_dtype(out_dtype, [&](auto out_type) { function(type, out_type); });
    } else if (out_dtype == DType::kFloat32) {
      function(type, std::type_identity<float>());
    } else {
      LORAX_CHECK(out_dtype == dtype);
      function(type, type);
    }
  });
}

}  // namespace lorax::cpu

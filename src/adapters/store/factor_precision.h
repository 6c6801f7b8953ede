// What rounding an adapter's factors to a 16-bit model dtype does to their products, and the form
// in which a device keeps them. PEFT keeps A and B in float32 beside a 16-bit base;
// docs/NUMERICS.md says when one rounding is as good, and where the bounds come from.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "adapters/peft/adapter.h"

namespace lorax {

// ||B A||_F, and the same of B A - B~ A~ where the factors B~ and A~ are rounded.
struct ProductRounding {
  double norm = 0.0;
  double error = 0.0;

  // error / norm; 0 where both are.
  double relative() const { return error > 0.0 ? error / norm : 0.0; }
};

// How a device keeps the factors of one module.
struct FactorForm {
  // 1: A and B rounded. 3: [B_hi, B_lo, B_hi] [A_hi; A_hi; A_lo], where hi is the rounded value and
  // lo what rounding left, rounded: of three times the rank, for the same kernels.
  int parts = 1;
  // Factors times 2^exponent are what is rounded; `scale` takes the exponents back. Not 0 in
  // float16 only, whose numbers lose bits below 2^-14 and end at 65504.
  int exponent_a = 0;
  int exponent_b = 0;

  bool operator==(const FactorForm&) const = default;
};

// What `scale` becomes beside factors in that form.
float scale_in(const FactorForm& form, float scale);

struct ModulePrecision {
  FactorForm form;
  ProductRounding rounding;        // of one part
  bool needs_three_parts = false;  // also where form.parts is 1, as the kernels' rank ends before
};

// By module, as Adapter::lora.
using AdapterPrecision = std::map<size_t, ModulePrecision>;

// ||W||_F of a module's base weight, or an estimate.
using WeightNorm = std::function<double(size_t module)>;

// Measures every `stride`-th row of B and column of A, 16 at least where there are: a part of B A,
// whose norms stand for the whole's in proportion. Sums of up to 64 products are float32's, sums of
// those float64's; so norm is resolved down to some 3e-4 of the sum of ||b_k|| ||a_k|| over the
// ranks k. `error` has no such cancellation. Costs 2 rank^2 multiplications a row and column.
ProductRounding measure_rounding(const LoraWeights& weights, DType dtype, int64_t stride = 1);

// The form of each module with LoRA on a device that computes in `dtype`. A three-part form has
// rank 512 (PeftConfig::kMaxRank) at most. Adapters of so many ranks and rows that measuring them
// takes too long are measured in part.
AdapterPrecision choose_precision(const Adapter& adapter, std::span<const AdapterModule> modules,
                                  DType dtype, const WeightNorm& weight_norm);

// The factors in that form, in `dtype`, with their rank and the scale that goes with them; without
// bias and magnitude.
LoraWeights in_form(const LoraWeights& weights, const FactorForm& form, DType dtype);

// "bfloat16 changes products by at most 0.0042 (model.layers.0.mlp.up_proj): 4 of 14 modules in
// three parts", for `lorax verify-adapter`: the module that rounding changes most. Without LoRA "".
std::string describe_precision(const AdapterPrecision& precision,
                               std::span<const AdapterModule> modules, DType dtype);

}  // namespace lorax

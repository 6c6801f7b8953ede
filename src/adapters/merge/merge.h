// Several LoRA adapters become one: PEFT's add_weighted_adapter.
//
// A and B are merged each for itself, every member's with the square root of weight * scale (the
// sign goes to A), so the result's own scale is 1. It has float32 weights, and the modules that the
// members' target_modules together select under the first member's other settings, as in PEFT.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/merge/merge_math.h"
#include "adapters/peft/adapter.h"
#include "nn/adapter_module.h"

namespace lorax {

enum class MergeStrategy { kLinear, kTies, kDareLinear, kDareTies };

struct MergeParameters {
  MergeStrategy strategy = MergeStrategy::kLinear;
  std::vector<double> weights;  // one for each adapter; any finite number
  double density = 0.0;         // what pruning keeps, in (0, 1]; kLinear prunes nothing
  MajoritySign majority_sign_method = MajoritySign::kTotal;  // of kTies and kDareTies
};

// "linear", "ties", "dare_linear", "dare_ties" and "total", "frequency", in any case of letters.
// Throws Error that lists them.
MergeStrategy parse_merge_strategy(std::string_view name);
MajoritySign parse_majority_sign_method(std::string_view name);

// The same, in lower case.
std::string_view name_of(MergeStrategy strategy);
std::string_view name_of(MajoritySign method);

// Throws Error that names the parameter.
void check_merge_parameters(const MergeParameters& parameters, size_t adapters);

// The digest that merging adapters of these digests gives, known before any is loaded. What has no
// effect (the density of kLinear) makes no difference.
std::string merged_digest(const MergeParameters& parameters,
                          std::span<const std::string> member_digests);

struct MergeMember {
  const Adapter* adapter = nullptr;
  std::string name;  // for messages
};

// Members were read against `modules`. Throws Error for wrong parameters, and for adapters that
// cannot be merged: Medusa heads, DoRA, lora_bias, replaced weights, unequal ranks, target_modules
// of which some are lists and some regular expressions. The masks of DARE depend on the merged
// digest alone.
Adapter merge_adapters(const MergeParameters& parameters, std::span<const MergeMember> members,
                       std::span<const AdapterModule> modules);

}  // namespace lorax

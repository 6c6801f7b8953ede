// Sampling as device/device.h says it, with full sorts and in double.
#pragma once

#include <vector>

#include "device/sampling.h"
#include "device_tensor.h"

namespace lorax::testing::reference {

// The logits that a row with this watermark draws from.
Values add_watermark(const Values& logits, const Watermark& watermark);

// The probability of each id after the cuts of `row`; 0: it is out. Not for temperature 0.
Values probabilities(const Values& logits, const SampledRow& row);

// The ids that a draw in float32 may give: those at row.unit, or within `slack` of it, where the
// cuts fall as they should or a relative `slack` to either side.
std::vector<bool> possible_draws(const Values& logits, const SampledRow& row, double slack);

// The logit of an edited id.
double edited(double logit, const LogitEdit& edit, const EditedRow& row);

}  // namespace lorax::testing::reference

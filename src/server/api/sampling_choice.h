// From the numbers of requests to those of the sampler, and what both APIs check alike.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lorax {

// A temperature that logits can be divided by; 0 (greedy) for one so small that it is the same, and
// where `top_p` is 0.
float usable_temperature(double temperature, std::optional<double> top_p);
// A number above 0 in float32, where one too small would become 0.
float positive_float(double number);
// 0 for all, as which -1 counts, too; more than any vocabulary has is all of it.
int32_t usable_top_k(int64_t top_k);
// Throws ApiError: too many, or one is empty.
void check_stop_strings(const std::vector<std::string>& stop, int64_t max_count);

}  // namespace lorax

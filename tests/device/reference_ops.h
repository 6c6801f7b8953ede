// The operations of device/device.h as their contracts say them, one obvious loop each, in double.
#pragma once

#include <cstdint>
#include <vector>

#include "device_tensor.h"

namespace lorax::testing::reference {

// table [V, D].
Values embedding(const std::vector<int>& ids, const Values& table, int64_t width, double scale);

// x [T, D], weight [D].
Values rms_norm(const Values& x, const Values& weight, double eps);

// x [T, n], weight [m, n].
Values linear(const Values& x, const Values& weight, int64_t n);

// y [T, m] += h [T, rank] b^T (b [m, rank]) and bias [m] if any, then times gain [m] if any.
struct LowRank {
  Values a;  // [rank, n]
  Values b;  // [m, rank]
  Values bias, gain;
  double scale = 1.0;
};
// The rows of y for which `has` is true, where x [T, n].
void add_low_rank(const Values& x, int64_t n, const LowRank& factors, const std::vector<bool>& has,
                  int64_t m, Values& y);

// x, h [T, D], bias [D].
Values add_silu(const Values& x, const Values& h, const Values& bias);

// x [T, heads, d], cos and sin [max_position, d/2].
Values rotary(const Values& x, const std::vector<int>& positions, const Values& cos,
              const Values& sin, int64_t heads, int64_t head_size);

// gate_up [T, 2F].
Values gelu_tanh_mul(const Values& gate_up, int64_t columns);

Values softcap(const Values& x, double cap);

// Causal attention of one sequence: q [rows, H, d] are the last of the tokens of k, v [length, K,
// d].
struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_size = 0;
};
// `bounds`, if given, becomes how far float32 may be from each element, by the condition of the
// problem: an error e of a score changes its weight by the factor 1 + e, and so the output by e
// times the weight times the distance of the value from the output. A score of d products p that
// may cancel has an error of some units of their root of sum of squares, flattened by the cap's
// slope, and of its own size (scale, tanh and the subtraction of the maximum round).
Values attention(const Values& q, const Values& k, const Values& v, const AttentionShape& shape,
                 const AttentionOptions& options, Values* bounds = nullptr);

}  // namespace lorax::testing::reference

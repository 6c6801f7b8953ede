#include "models/model_definition.h"

#include <algorithm>

namespace lorax {

double ModelInfo::attention_multiply_adds(int64_t first, int64_t last) const {
  // Pairs of a token and a key that it sees, in a layer where it sees `most`.
  const auto pairs = [&](int64_t most) {
    const auto up_to = [most](int64_t end) {  // of the tokens before `end`
      const double growing = static_cast<double>(std::min(end, most));
      return growing * (growing + 1.0) / 2.0 + (static_cast<double>(end) - growing) * growing;
    };
    return up_to(last) - up_to(first);
  };
  const double all = static_cast<double>(num_hidden_layers - windowed_layers) * pairs(last) +
                     static_cast<double>(windowed_layers) * pairs(window);
  return 2.0 * static_cast<double>(num_attention_heads * head_dim) * all;
}

}  // namespace lorax

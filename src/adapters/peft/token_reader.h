// The tokens of an adapter that have rows of their own in embedding or head: PEFT's
// trainable_token_indices, and adapters of its type TRAINABLE_TOKENS.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/peft/adapter.h"
#include "adapters/peft/base_model.h"
#include "adapters/peft/peft_config.h"
#include "adapters/peft/tensor_plan.h"

namespace lorax {

class TokenReader {
 public:
  // `base` must outlive this.
  TokenReader(const BaseModel& base, std::string_view origin) : base_(base), origin_(origin) {}

  // Lays out adapter.tokens and claims their tensors. What LoRA and modules_to_save take in must be
  // in `adapter` already. Throws Error for tokens of other modules than embedding and head, or none
  // of the vocabulary, and for what PEFT cannot compute. `ties`: ensure_weight_tying as it stands
  // in the file. `adapter` must stay where it is until finish().
  void plan(const PeftConfig& config, bool ties, TensorPlan& tensors, Adapter& adapter);

  // After the tensors have been read: brings the rows into the order of their ids.
  void finish(Adapter& adapter) const;

 private:
  using Ids = std::vector<int32_t>;

  std::map<size_t, Ids> resolve(const PeftConfig& config) const;
  void check_ids(size_t module, const Ids& ids) const;
  void check_alone(size_t module, const PeftConfig& config, const Adapter& adapter) const;
  std::string tensor_of(size_t module) const;
  void claim(size_t module, const Ids& ids, TensorPlan& tensors, HostTensor* to) const;

  const BaseModel& base_;
  std::string origin_;
  bool alone_ = false;                // TRAINABLE_TOKENS, not LoRA
  std::map<size_t, size_t> shared_;   // a tied head -> the embedding whose rows it uses
  std::map<size_t, HostTensor> own_;  // tensors that PEFT may write for such a head, too
};

}  // namespace lorax

// What one request's sampling remembers from token to token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/int_map.h"
#include "device/sampling.h"
#include "engine/schedule/sampling_parameters.h"

namespace lorax {

// Counts of seen ids, kept where a parameter needs them: memory grows with the tokens and biases,
// not with the vocabulary. Host logic only.
class SamplerState {
 public:
  // The parameters are valid (validate()).
  SamplerState(const SamplingParameters& parameters, std::span<const int32_t> prompt);

  // The next generated token. Called once for each, in order.
  void accept(int32_t id);

  // Whether the token is just the most likely of the raw logits.
  bool is_plain_greedy() const;
  // How the next token is drawn from row `row` of the logits.
  SampledRow choice(int32_t row) const;
  // Appends the edits that the next token's logits need. Returns false, and appends nothing, if
  // they need none; otherwise `edited` becomes their row.
  bool append_edits(int32_t row, std::vector<LogitEdit>& edits, EditedRow& edited) const;
  // Whether something keeps ids from being chosen, so that none may be left.
  bool bans() const;

  const SamplingParameters& parameters() const { return parameters_; }
  // Tokens generated so far: the number of the next one.
  uint64_t generated() const { return generated_; }

 private:
  LogitEdit& entry(int32_t id);
  void see(int32_t id, bool is_generated);
  bool has_effect(const LogitEdit& edit) const;
  // The ids, ascending, that the next token may not be, beside all that are not allowed.
  void find_banned();
  Watermark watermark() const;

  SamplingParameters parameters_;
  bool counts_prompt_;
  bool counts_generated_;
  uint64_t generated_ = 0;
  int32_t previous_ = -1;      // the last token, of the prompt at first
  std::vector<int32_t> tail_;  // the last generated tokens, as many as bad_words look back
  size_t longest_tail_ = 0;
  std::vector<int32_t> banned_;
  std::vector<LogitEdit> entries_;
  IntMap places_;  // of ids in entries_
};

// A number in [0, 1) that depends on (seed, step) alone: two rounds of the SplitMix64 finaliser.
double random_unit(uint64_t seed, uint64_t step);

}  // namespace lorax

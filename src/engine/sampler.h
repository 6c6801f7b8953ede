// Chooses the next tokens of a step, on the device where the logits are. What leaves the device are
// ids, log-probabilities and alternatives.
//
// Reported log-probabilities are those of the model: log_softmax of the raw logits, before any
// penalty, bias, temperature or cut. So they are finite and comparable between requests, and a
// token chosen greedily under a penalty may be less likely than one of its alternatives.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/device.h"
#include "engine/sampler_state.h"

namespace lorax {

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;  // natural logarithm
};

struct SampledToken {
  // -1: the row has a logit that is NaN or +infinity, or none above -infinity. Nothing else is said
  // of such a row, and other rows don't suffer.
  int32_t id = 0;
  float logprob = 0.0f;
  // As many as were asked for, less ids whose logit is -infinity: the most likely ones, most likely
  // first, of equals the lowest id first. The token itself is among them if it is that likely.
  std::vector<TokenLogprob> alternatives = {};
};

// One row of logits whose next token is to be chosen.
struct SamplerRow {
  const SamplerState* state = nullptr;
  int32_t alternatives = 0;  // to report; more than the vocabulary has means all
};

// Used by one thread. Host and device buffers grow to the largest call and are kept. A row's token
// depends on its logits and its state alone: not on its neighbours, nor on the number of threads.
class Sampler {
 public:
  // The device must outlive the sampler.
  explicit Sampler(Device& device) : device_(device) {}

  // The next token of each row of logits [N, V] (float32, in device memory; unchanged when it
  // returns). States are not changed: accept() is the caller's. Valid until the next call.
  std::span<const SampledToken> sample(const Tensor& logits, std::span<const SamplerRow> rows);

  // The log-probabilities of given tokens, one per row, and alternatives to each: of a prompt, row
  // i with the id of token i + 1. Valid until the next call.
  std::span<const SampledToken> score(const Tensor& logits, std::span<const int32_t> ids,
                                      int32_t alternatives);

 private:
  // Lists of records in one piece of device memory, laid out anew in each call.
  class Layout;
  struct Inputs;
  struct Results;

  void pack(std::span<const SamplerRow> rows, int64_t vocab_size);
  Inputs upload(std::span<const int32_t> given);
  // given: the tokens to report, instead of chosen ones; empty: none.
  std::span<const SampledToken> run(const Tensor& logits, std::span<const int32_t> given);
  SampledToken token_of(const Results& results, size_t row) const;

  Device& device_;
  // Of the call in hand.
  std::vector<SampledRow> choices_;
  std::vector<EditedRow> edited_;
  std::vector<LogitEdit> edits_;
  std::vector<TopRow> tops_;
  std::vector<int64_t> top_of_row_;  // index into tops_; -1: none
  int64_t top_places_ = 0;

  std::vector<char> to_device_;
  std::vector<char> from_device_;
  Buffer inputs_;
  Buffer outputs_;
  std::vector<SampledToken> tokens_;
};

}  // namespace lorax

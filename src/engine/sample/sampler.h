// Chooses the next tokens of a step, on the device where the logits are. What leaves the device are
// ids, log-probabilities and alternatives.
//
// Reported log-probabilities are those of the model: log_softmax of the raw logits, before any
// penalty, bias, temperature or cut. So they are finite and comparable between requests, and a
// token chosen greedily under a penalty may be less likely than one of its alternatives.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "engine/sample/sampler_state.h"

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
//
// begin_sample() and begin_score() only ask the device, and any number of them may be under way;
// each finish() waits for the oldest and gives what it came to.
class Sampler {
 public:
  // The device must outlive the sampler.
  explicit Sampler(Device& device) : device_(device) {}

  // The next token of each row of logits [N, V] (float32, in device memory; unchanged once that is
  // done, in the order of the device's work). States are not changed, nor needed afterwards:
  // accept() is the caller's. `ids` (device, [N] int32; empty: none) gets the ids, too.
  void begin_sample(const Tensor& logits, std::span<const SamplerRow> rows, const Tensor& ids = {});

  // The log-probabilities of given tokens, one per row, and alternatives to each: of a prompt, row
  // i with the id of token i + 1.
  void begin_score(const Tensor& logits, std::span<const int32_t> ids, int32_t alternatives);

  // Precondition: one is under way. Valid until the next call of anything.
  std::span<const SampledToken> finish();

  // Forgets those that are under way. Precondition: the device has done them, or never will.
  void drop() { begun_ = finished_ = 0; }

  // Beginning and finish in one. Precondition: none is under way.
  std::span<const SampledToken> sample(const Tensor& logits, std::span<const SamplerRow> rows);
  std::span<const SampledToken> score(const Tensor& logits, std::span<const int32_t> ids,
                                      int32_t alternatives);

 private:
  // Lists of records in one piece of device memory, laid out anew in each call.
  class Layout;
  struct Inputs;
  struct Results;

  // One that is, or was, under way.
  struct Call {
    int64_t rows = 0;
    std::vector<TopRow> tops;
    std::vector<int64_t> top_of_row;  // index into tops; -1: none
    int64_t top_places = 0;
    std::vector<int32_t> given;  // the tokens to report, instead of chosen ones; empty: none
    HostBuffer to_device, from_device;
    Buffer inputs, outputs;
    std::unique_ptr<DeviceEvent> done;
  };

  Call& next_call();
  void pack(Call& call, std::span<const SamplerRow> rows, int64_t vocab_size);
  void pack_mask(std::span<const int32_t> allowed, int64_t vocab_size);
  Inputs upload(Call& call);
  void begin(Call& call, const Tensor& logits, const Tensor& ids);
  SampledToken token_of(const Call& call, const Results& results, size_t row) const;

  Device& device_;
  std::vector<std::unique_ptr<Call>> calls_;  // [finished_, begun_) are under way
  size_t begun_ = 0;
  size_t finished_ = 0;
  // Of the call that begins.
  std::vector<SampledRow> choices_;
  std::vector<EditedRow> edited_;
  std::vector<LogitEdit> edits_;
  std::vector<uint32_t> masks_;          // SampledRow::allowed of those that have one
  std::vector<int64_t> mask_of_choice_;  // where in masks_; -1: none
  std::vector<SamplerRow> scored_rows_;
  std::vector<SampledToken> tokens_;  // of the last finish()
};

}  // namespace lorax

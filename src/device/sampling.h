// What the sampling operations of Device are told and what they give: plain records, packed into
// device memory by the caller.
#pragma once

#include <cstdint>

namespace lorax {

// A list of records in device memory.
template <typename T>
struct DeviceList {
  T* data = nullptr;
  int64_t size = 0;
};

// What one row of logits holds.
struct RowStatistics {
  float max = 0.0f;
  int32_t argmax = 0;        // the lowest id among equals
  double log_sum_exp = 0.0;  // log of the sum of e^logit
  int64_t is_usable = 0;     // 1: no logit is NaN or +infinity, and one at least is above -infinity
};

// A green list: ids that gain `delta`. delta = 0: no watermark.
struct Watermark {
  uint32_t key = 0;    // chooses the list
  uint32_t share = 0;  // of the vocabulary that is green, in 2^-32
  float delta = 0.0f;
};

// Whether the id is on the green list: a hash of (key, id) lies below `share`. The hash is the
// finaliser of MurmurHash3 (Appleby) over key + id times 2^32 / golden ratio.
constexpr bool is_green(uint32_t key, uint32_t share, int32_t id) {
  uint32_t h = key + static_cast<uint32_t>(id) * 0x9e3779b1u;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  return (h ^ (h >> 16)) < share;
}

// The change of one logit: `id` gains -count * frequency - (count > 0) * presence + bias, after the
// repetition penalty if it has been `seen`.
struct LogitEdit {
  int32_t id = 0;
  int32_t count = 0;
  int32_t seen = 0;
  float bias = 0.0f;
};

// The edits of one row: [begin, end) of a list, no id twice. The green list is not applied by
// edit_logits(), but the edits are to what it makes of a logit.
struct EditedRow {
  int32_t row = 0;
  int32_t begin = 0;
  int32_t end = 0;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  Watermark watermark = {};
};

// How one row's token is drawn. Applied in the order of the members.
struct SampledRow {
  int32_t row = 0;
  // In device memory: id i may be chosen if bit i % 32 of word i / 32 is set. Null: all may be.
  const uint32_t* allowed = nullptr;
  Watermark watermark = {};
  float temperature = 1.0f;  // 0: the most likely, the lowest id among equals; no draw
  int32_t top_k = 0;         // 0: all
  float top_p = 1.0f;        // 1: all
  float typical_p = 1.0f;    // 1: all
  float min_p = 0.0f;        // 0: all
  double unit = 0.0;         // in [0, 1): where the draw falls
};

// A request for the `count` largest logits of a row, written from place `offset` on.
struct TopRow {
  int32_t row = 0;
  int32_t count = 0;
  int64_t offset = 0;
};

struct TopLogit {
  int32_t id = -1;
  float logit = 0.0f;
};

}  // namespace lorax

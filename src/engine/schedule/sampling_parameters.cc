#include "engine/schedule/sampling_parameters.h"

#include <cmath>
#include <string_view>

#include "base/error.h"

namespace lorax {
namespace {

// A number in (0, 1]; 1 turns its cut off.
void check_probability(std::string_view name, float value) {
  if (!(value > 0.0f && value <= 1.0f)) {
    fail("{} is {}; it must be above 0 and at most 1", name, value);
  }
}

void check_within(std::string_view name, float value, float least, float most) {
  if (!(value >= least && value <= most)) {
    fail("{} is {}; it must be from {} to {}", name, value, least, most);
  }
}

}  // namespace

void validate(const SamplingParameters& parameters) {
  const SamplingParameters& p = parameters;
  if (!(p.temperature >= 0.0f) || !std::isfinite(p.temperature)) {
    fail("temperature is {}; it must be 0 (greedy) or above", p.temperature);
  }
  if (p.top_k < 0) fail("top_k is {}; it must be 0 (off) or above", p.top_k);
  check_probability("top_p", p.top_p);
  check_probability("typical_p", p.typical_p);
  check_within("min_p", p.min_p, 0.0f, 1.0f);
  if (!(p.repetition_penalty > 0.0f) || !std::isfinite(p.repetition_penalty)) {
    fail("repetition_penalty is {}; it must be above 0 (1 changes nothing)", p.repetition_penalty);
  }
  check_within("frequency_penalty", p.frequency_penalty, -2.0f, 2.0f);
  check_within("presence_penalty", p.presence_penalty, -2.0f, 2.0f);
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0) fail("logit_bias has the token id {}; ids are 0 or above", id);
    if (!(bias >= -100.0f && bias <= 100.0f)) {
      fail("logit_bias of token id {} is {}; it must be from -100 to 100", id, bias);
    }
  }
  if (!(p.watermark_gamma > 0.0f && p.watermark_gamma < 1.0f)) {
    fail("watermark_gamma is {}; it must be above 0 and below 1", p.watermark_gamma);
  }
  if (!std::isfinite(p.watermark_delta)) {
    fail("watermark_delta is {}; it must be a finite number", p.watermark_delta);
  }
}

void validate(const SamplingParameters& parameters, int64_t vocab_size) {
  validate(parameters);
  const auto check_ids = [&](std::string_view name, const std::vector<int32_t>& ids) {
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size) {
        fail("{} has the token id {}; the model has ids 0 to {}", name, id, vocab_size - 1);
      }
    }
  };
  check_ids("allowed_ids", parameters.allowed_ids);
  check_ids("ending_ids", parameters.ending_ids);
  for (const std::vector<int32_t>& word : parameters.bad_words) {
    if (word.empty()) fail("bad_words has a word without a token");
    check_ids("bad_words", word);
  }
  for (const auto& [id, bias] : parameters.logit_bias) {
    if (id >= vocab_size) {
      fail("logit_bias has the token id {}; the model has ids 0 to {}", id, vocab_size - 1);
    }
  }
}

}  // namespace lorax

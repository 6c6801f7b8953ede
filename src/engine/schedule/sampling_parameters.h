// How one request chooses its tokens.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace lorax {

// Applied to each row of logits in this order: watermark, repetition penalty, frequency and
// presence penalty, logit_bias, what may not be chosen, temperature, top_k, top_p, typical_p,
// min_p, choice. Defaults change nothing but the choice, which is then a draw from softmax(logits).
struct SamplingParameters {
  float temperature = 1.0f;  // divides the logits; 0: greedy, the cuts below don't matter
  int32_t top_k = 0;         // keep the k most likely; 0: all
  float top_p = 1.0f;        // the smallest set of at least this probability; 1: all
  float typical_p = 1.0f;    // the most typical set of at least this probability; 1: all
  float min_p = 0.0f;        // keep what is at least this times as likely as the best; 0: all
  // Over all tokens of prompt and generated text that have been seen: logits above 0 are divided
  // by it, others multiplied. 1: none.
  float repetition_penalty = 1.0f;
  // OpenAI's definition, over generated tokens: logit - count * frequency - (count > 0) * presence.
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // (token id, added to its logit)
  std::vector<int32_t> allowed_ids = {};                   // only these are chosen; empty: all are
  // Sequences of ids, none empty, that the generated text does not get: the last id of one is not
  // chosen behind the others.
  std::vector<std::vector<int32_t>> bad_words = {};
  // Not chosen for the first `min_tokens` generated tokens: ids that would end the text.
  std::vector<int32_t> ending_ids = {};
  int64_t min_tokens = 0;
  // Kirchenbauer et al. 2023: a share gamma of the vocabulary, drawn from a hash of the previous
  // token, gains delta.
  bool watermark = false;
  float watermark_gamma = 0.5f;
  float watermark_delta = 2.0f;
  // Draws depend on (seed, number of the generated token) alone.
  uint64_t seed = 0;
};

// Throws Error that names the field and its range: those of LoRAX's API, with temperature 0 and
// probabilities of 1 (off) allowed, and OpenAI's for logit_bias.
void validate(const SamplingParameters& parameters);
// Also that ids lie below vocab_size.
void validate(const SamplingParameters& parameters, int64_t vocab_size);

}  // namespace lorax

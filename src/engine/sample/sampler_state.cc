#include "engine/sample/sampler_state.h"

#include <algorithm>
#include <limits>

#include "base/mix64.h"

namespace lorax {

double random_unit(uint64_t seed, uint64_t step) {
  constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
  const uint64_t bits = mix64(mix64(seed + kGolden) + (step + 1) * kGolden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

SamplerState::SamplerState(const SamplingParameters& parameters, std::span<const int32_t> prompt)
    : parameters_(parameters),
      counts_prompt_(parameters.repetition_penalty != 1.0f),
      counts_generated_(counts_prompt_ || parameters.frequency_penalty != 0.0f ||
                        parameters.presence_penalty != 0.0f) {
  for (const auto& [id, bias] : parameters_.logit_bias) entry(id).bias += bias;
  if (counts_prompt_) {
    for (int32_t id : prompt) see(id, false);
  }
  if (!prompt.empty()) previous_ = prompt.back();
  for (const std::vector<int32_t>& word : parameters_.bad_words) {
    longest_tail_ = std::max(longest_tail_, word.size() - 1);
  }
  find_banned();
}

void SamplerState::accept(int32_t id) {
  if (counts_generated_) see(id, true);
  previous_ = id;
  ++generated_;
  if (longest_tail_ > 0) {
    if (tail_.size() == longest_tail_) tail_.erase(tail_.begin());
    tail_.push_back(id);
  }
  find_banned();
}

void SamplerState::find_banned() {
  banned_.clear();
  for (const std::vector<int32_t>& word : parameters_.bad_words) {
    const std::span<const int32_t> front(word.data(), word.size() - 1);
    const std::span<const int32_t> tail(tail_);
    if (front.size() <= tail.size() && std::ranges::equal(front, tail.last(front.size()))) {
      banned_.push_back(word.back());
    }
  }
  if (static_cast<int64_t>(generated_) < parameters_.min_tokens) {
    banned_.insert(banned_.end(), parameters_.ending_ids.begin(), parameters_.ending_ids.end());
  }
  std::ranges::sort(banned_);
  banned_.erase(std::unique(banned_.begin(), banned_.end()), banned_.end());
}

bool SamplerState::bans() const { return !banned_.empty() || !parameters_.allowed_ids.empty(); }

LogitEdit& SamplerState::entry(int32_t id) {
  const uint64_t key = static_cast<uint32_t>(id);
  uint32_t place = places_.find(key);
  if (place == IntMap::kAbsent) {
    place = static_cast<uint32_t>(entries_.size());
    places_.insert(key, place);
    entries_.push_back({.id = id});
  }
  return entries_[place];
}

void SamplerState::see(int32_t id, bool is_generated) {
  LogitEdit& edit = entry(id);
  edit.seen = 1;
  if (is_generated) ++edit.count;
}

bool SamplerState::has_effect(const LogitEdit& edit) const {
  return edit.bias != 0.0f || (edit.seen != 0 && parameters_.repetition_penalty != 1.0f) ||
         (edit.count > 0 &&
          (parameters_.frequency_penalty != 0.0f || parameters_.presence_penalty != 0.0f));
}

// The list of green ids depends on the token before: as in Kirchenbauer et al., the previous id
// times a large prime is the seed, from which our own hash (is_green) takes the place of a random
// permutation. Each id is green on its own with probability gamma.
Watermark SamplerState::watermark() const {
  if (!parameters_.watermark) return {};
  constexpr uint64_t kHashKey = 15485863;
  const uint64_t seed = kHashKey * (static_cast<uint64_t>(static_cast<uint32_t>(previous_)) + 1);
  const double share = static_cast<double>(parameters_.watermark_gamma) * 0x1p32;
  return {.key = static_cast<uint32_t>(mix64(seed)),
          .share = static_cast<uint32_t>(std::clamp(share, 0.0, 0x1p32 - 1.0)),
          .delta = parameters_.watermark_delta};
}

bool SamplerState::is_plain_greedy() const {
  return parameters_.temperature == 0.0f && !parameters_.watermark && !bans() &&
         std::ranges::none_of(entries_, [&](const LogitEdit& edit) { return has_effect(edit); });
}

SampledRow SamplerState::choice(int32_t row) const {
  return {.row = row,
          .watermark = watermark(),
          .temperature = parameters_.temperature,
          .top_k = parameters_.top_k,
          .top_p = parameters_.top_p,
          .typical_p = parameters_.typical_p,
          .min_p = parameters_.min_p,
          .unit = random_unit(parameters_.seed, generated_)};
}

bool SamplerState::append_edits(int32_t row, std::vector<LogitEdit>& edits,
                                EditedRow& edited) const {
  const size_t begin = edits.size();
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const auto is_banned = [&](int32_t id) { return std::ranges::binary_search(banned_, id); };
  for (const LogitEdit& edit : entries_) {
    if (has_effect(edit) && !is_banned(edit.id)) edits.push_back(edit);
  }
  for (const int32_t id : banned_) edits.push_back({.id = id, .bias = kNever});
  if (edits.size() == begin) return false;
  edited = {.row = row,
            .begin = static_cast<int32_t>(begin),
            .end = static_cast<int32_t>(edits.size()),
            .repetition_penalty = parameters_.repetition_penalty,
            .frequency_penalty = parameters_.frequency_penalty,
            .presence_penalty = parameters_.presence_penalty,
            .watermark = watermark()};
  return true;
}

}  // namespace lorax

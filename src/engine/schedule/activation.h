// aLoRA: from where in a prompt on an adapter acts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

namespace lorax {

// Of an adapter that acts nowhere.
inline constexpr int64_t kNeverActive = std::numeric_limits<int64_t>::max();

// The position at which `invocation` begins in the prompt for the last time, kNeverActive if it is
// not there (PEFT's calculate_alora_offsets); 0, all of it, for an adapter without invocation.
inline int64_t activation_of(std::span<const int32_t> prompt, std::span<const int32_t> invocation) {
  if (invocation.empty()) return 0;
  const auto found =
      std::find_end(prompt.begin(), prompt.end(), invocation.begin(), invocation.end());
  return found == prompt.end() ? kNeverActive : found - prompt.begin();
}

}  // namespace lorax

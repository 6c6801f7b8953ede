// For tests that wait for another thread: every wait has a bound, long enough for a busy machine.
#pragma once

#include <chrono>
#include <thread>

namespace lorax {

inline constexpr std::chrono::seconds kTestPatience{60};

// Whether the condition comes to hold within the limit; asked every millisecond.
template <typename Condition>
bool eventually(Condition condition, std::chrono::milliseconds limit = kTestPatience) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace lorax

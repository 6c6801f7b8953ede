// What /health says: not whether something once set a flag, but whether the engine's thread and
// the adapters' still get on with their work.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <string>

namespace lorax {

class Health {
 public:
  struct Sources {
    // False once the engine has failed.
    std::function<bool()> engine_works;
    // How long the engine has been at one turn of its loop, and how long adapters have waited
    // without any of them getting on; 0 while there is nothing to do.
    std::function<std::chrono::nanoseconds()> engine_busy;
    std::function<std::chrono::nanoseconds()> loaders_stuck;
    // Told each new fault, and "" when it is over; must not block.
    std::function<void(const std::string& fault)> on_change;
  };

  // `patience`: how long both may be at it; 0: for ever.
  Health(Sources sources, std::chrono::nanoseconds patience)
      : sources_(std::move(sources)), patience_(patience) {}

  // From any thread; what they say counts from then on.
  void drain() { draining_ = true; }

  // What is wrong, in one line; "" if nothing is.
  std::string fault();
  bool is_draining() const { return draining_; }

 private:
  std::string current_fault() const;

  const Sources sources_;
  const std::chrono::nanoseconds patience_;
  std::atomic<bool> draining_{false};
  std::mutex mutex_;
  std::string told_;  // guarded by mutex_
};

}  // namespace lorax

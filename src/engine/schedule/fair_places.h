// A number of places that flows (adapters, API keys) share without a queue: who finds none is told
// to come back. None of those who have one is ever put out, so the last places are kept for flows
// that have few.
//
// The rule is the dynamic threshold of Choudhury and Hahne ("Dynamic Queue Length Thresholds for
// Shared-Memory Packet Switches", 1998): a flow gets one more place as long as it then holds at
// most kMultiple times as many as are left free; its first it gets whenever one is free. All flows
// have the same threshold, so those that want more than their share come to hold the same number,
// as max-min fairness asks, and those that want less get what they want. One flow alone gets eight
// ninths of all places (910 of 1,024), ten flows 1.2% less than a tenth each.
//
// A flow that has none and finds none free is remembered for as long as it was told to wait, and a
// little more: meanwhile what comes back is kept for it from all that have some. So no flow starves
// whose client asks again, unless there are more flows than places.
//
// Host logic only, one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

namespace lorax {

// When a place will be free, from how often places have been given back of late.
class ReturnRate {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kLeast{1};
  static constexpr std::chrono::seconds kMost{60};

  // One has been given back.
  void note(Time now);
  // Until `count` more of them have come, in whole seconds from kLeast to kMost. What has been
  // going on for long without one is expected to go on for as long again.
  std::chrono::seconds time_for(int64_t count, Time now) const;

 private:
  std::optional<Time> last_;
  double interval_ = 0.0;  // seconds between two, the last ones counting most
};

class FairPlaces {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr int64_t kMultiple = 8;
  static constexpr std::chrono::seconds kGrace{5};

  struct Options {
    int64_t places = 1;
    int64_t most_of_one = 0;  // that one flow holds at most; 0: no limit but the rule
    // False where there is but one flow: it gets all.
    bool shared = true;
  };

  explicit FairPlaces(const Options& options) : options_(options) {}

  // Whether the flow got a place; else when it is worth to ask again.
  struct Answer {
    bool taken = false;
    std::chrono::seconds retry_after{0};
  };
  Answer take(const std::string& flow, Time now);
  // Precondition: the flow holds a place.
  void give_back(const std::string& flow, Time now);

  int64_t used() const { return used_; }
  int64_t held_by(const std::string& flow) const;
  size_t flows() const { return held_.size(); }

  // What one flow gets if nobody else has any.
  static int64_t most_alone(const Options& options);

 private:
  // Whether a flow may come to hold `held` places while `free` are left.
  static bool allows(const Options& options, int64_t held, int64_t free);
  // How many places must come back, of whomever, until it may.
  int64_t missing_for(int64_t held, int64_t free) const;

  const Options options_;
  int64_t used_ = 0;
  std::unordered_map<std::string, int64_t> held_;  // flows without any are not in it
  std::unordered_map<std::string, Time> wanting_;  // flows without any that were refused: until
  ReturnRate returns_;
};

}  // namespace lorax

#include "engine/schedule/fair_places.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "base/check.h"

namespace lorax {
namespace {

double seconds(ReturnRate::Time from, ReturnRate::Time to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

void ReturnRate::note(Time now) {
  constexpr double kWeight = 1.0 / 16;  // of the newest
  if (last_) {
    const double passed = std::max(seconds(*last_, now), 0.0);
    interval_ = interval_ == 0.0 ? passed : interval_ + kWeight * (passed - interval_);
  }
  last_ = now;
}

std::chrono::seconds ReturnRate::time_for(int64_t count, Time now) const {
  if (!last_) return kLeast;
  const double expected = static_cast<double>(count) * interval_;
  const double wait = std::max(expected, seconds(*last_, now));
  const auto whole = std::chrono::seconds(
      static_cast<int64_t>(std::ceil(std::min(wait, static_cast<double>(kMost.count())))));
  return std::clamp(whole, kLeast, kMost);
}

bool FairPlaces::allows(const Options& options, int64_t held, int64_t free) {
  if (free < 0 || (options.most_of_one > 0 && held > options.most_of_one)) return false;
  return !options.shared || held <= std::max<int64_t>(1, kMultiple * free);
}

int64_t FairPlaces::most_alone(const Options& options) {
  int64_t held = 0;
  while (allows(options, held + 1, options.places - held - 1)) ++held;
  return held;
}

int64_t FairPlaces::held_by(const std::string& flow) const {
  const auto found = held_.find(flow);
  return found == held_.end() ? 0 : found->second;
}

int64_t FairPlaces::missing_for(int64_t held, int64_t free) const {
  int64_t missing = 1;
  // Some are its own, as many as it has among all.
  while (missing < used_ &&
         !allows(options_, held - missing * (held - 1) / used_, free + missing)) {
    ++missing;
  }
  return missing;
}

FairPlaces::Answer FairPlaces::take(const std::string& flow, Time now) {
  wanting_.erase(flow);
  std::erase_if(wanting_, [now](const auto& entry) { return entry.second < now; });
  const int64_t held = held_by(flow) + 1;
  int64_t free = options_.places - used_ - 1;
  if (held > 1) free -= std::ssize(wanting_);
  if (allows(options_, held, free)) {
    ++held_[flow];
    ++used_;
    return {.taken = true};
  }
  const std::chrono::seconds wait = returns_.time_for(missing_for(held, free), now);
  if (held == 1 && std::ssize(wanting_) < options_.places) {
    wanting_[flow] = now + wait + kGrace;
  }
  return {.taken = false, .retry_after = wait};
}

void FairPlaces::give_back(const std::string& flow, Time now) {
  const auto found = held_.find(flow);
  LORAX_CHECK(found != held_.end(), "flow {} holds no place", flow);
  if (--found->second == 0) held_.erase(found);
  --used_;
  returns_.note(now);
}

}  // namespace lorax

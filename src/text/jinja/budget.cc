#include "text/jinja/budget.h"

#include <algorithm>
#include <ctime>

namespace lorax::jinja {
namespace {

std::chrono::nanoseconds thread_time() {
  std::timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

void Budget::begin() {
  const size_t input = bytes_;
  most_bytes_ = std::min(limits_.bytes + input * (1 + limits_.bytes_per_input), limits_.most_bytes);
  limits_.time += limits_.time * static_cast<int64_t>(input >> 20);
  begun_ = std::chrono::steady_clock::now();
  begun_cpu_ = thread_time();
}

// A thread that has not run for most of the time, on a busy machine, gets more of it.
void Budget::check_time() {
  constexpr int kPatience = 20;
  spent_ = 0;
  if (!begun_) return;
  const auto passed = std::chrono::steady_clock::now() - *begun_;
  if (passed < limits_.time) return;
  if (passed < kPatience * limits_.time && thread_time() - begun_cpu_ < limits_.time / 2) return;
  raise("takes longer than {} ms", limits_.time.count());
}

}  // namespace lorax::jinja

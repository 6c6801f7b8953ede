// The clock of the transport's timers: the steady clock, which a test can stop and move by hand.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>

#include <boost/asio/basic_waitable_timer.hpp>

namespace lorax {

class HttpClock {
 public:
  using duration = std::chrono::steady_clock::duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::steady_clock::time_point;
  static constexpr bool is_steady = true;

  static time_point now() {
    const rep stopped_at = stopped_at_.load(std::memory_order_relaxed);
    return stopped_at == 0 ? std::chrono::steady_clock::now() : time_point(duration(stopped_at));
  }

  // While one lives, time stands still but for advance(). For tests; one at a time.
  class Stopped {
   public:
    Stopped() { stopped_at_ = std::chrono::steady_clock::now().time_since_epoch().count(); }
    ~Stopped() { stopped_at_ = 0; }
    Stopped(const Stopped&) = delete;
    Stopped& operator=(const Stopped&) = delete;
    void advance(duration by) { stopped_at_ += by.count(); }
  };

  // How long a timer sleeps before it looks at the clock again.
  struct Wait {
    static duration to_wait_duration(const duration& left) {
      const bool is_stopped = stopped_at_.load(std::memory_order_relaxed) != 0;
      return is_stopped ? std::min<duration>(left, std::chrono::milliseconds(1)) : left;
    }
    static duration to_wait_duration(const time_point& until) {
      return to_wait_duration(until - now());
    }
  };
  using Timer = boost::asio::basic_waitable_timer<HttpClock, Wait>;

 private:
  static inline std::atomic<rep> stopped_at_{0};
};

}  // namespace lorax

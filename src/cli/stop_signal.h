// SIGTERM, SIGHUP and SIGINT as something to wait for.
#pragma once

#include <chrono>

namespace lorax::cli {

// From start() on, the first of these signals is what wait() returns. Further SIGTERMs and
// SIGHUPs change nothing: process groups and supervisors send them twice. A SIGINT that is not the
// first ends the process at once, as it does by default: somebody at a terminal asks again.
//
// SIGHUP stays ignored where it was when the program started (nohup). One at a time.
class StopSignal {
 public:
  // Throws Error if the system is out of file descriptors. Signals still end the process.
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  void start();

  // What raise() makes wait() return.
  static constexpr int kRaised = 0;

  // Blocks until a signal has come, and returns its number.
  int wait();
  // The same, for no longer than this; -1 if none has come.
  int wait_for(std::chrono::milliseconds time);
  // From any thread: wakes wait(), with or without a signal before.
  void raise();

 private:
  int read_end_ = -1;
};

}  // namespace lorax::cli

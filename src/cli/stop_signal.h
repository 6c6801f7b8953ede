// SIGTERM and SIGINT as something to wait for.
#pragma once

namespace lorax::cli {

// From its construction on, the first of the two signals is what wait() returns; the next one ends
// the process, as signals do by default. One at a time.
class StopSignal {
 public:
  // Throws Error if the system is out of file descriptors.
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Blocks until a signal has come, and returns its number.
  int wait();

 private:
  int read_end_ = -1;
};

}  // namespace lorax::cli

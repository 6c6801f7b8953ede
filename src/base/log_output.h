// Lines on their way to a file descriptor that may be slow, full, gone, or read by nobody: whoever
// writes one never waits for it.
//
// A thread of its own takes the lines from a bounded queue. What does not fit pushes out the oldest
// ones; they are counted, and the count is written in their place once the descriptor takes bytes
// again. The descriptor stays as it is: O_NONBLOCK belongs to all processes that share it. Instead
// the thread writes what a pipe that is ready takes at once. Should it hang nevertheless (another
// process has filled the pipe in between, a disk does not answer), it is left to hang: it is never
// waited for beyond a deadline, and owns all that it uses.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace lorax {

class LogOutput {
 public:
  // What stands in the place of `lines` that are lost; without the end of the line. Called by the
  // thread of the output, possibly after the output's end.
  using Notice = std::function<std::string(uint64_t lines)>;

  static constexpr size_t kQueueBytes = size_t{1} << 20;

  // `fd` stays the caller's. Throws Error without a thread.
  LogOutput(int fd, Notice notice, size_t queue_bytes = kQueueBytes);
  // Leaves what close() has not written.
  ~LogOutput();
  LogOutput(const LogOutput&) = delete;
  LogOutput& operator=(const LogOutput&) = delete;

  // From any thread, at any time; adds the end of the line. Precondition: the line holds none.
  void write(std::string line) noexcept;

  // Lines that were not written, and never will be.
  uint64_t dropped() const noexcept;

  // Takes no more lines, and waits until those it has are written, or the deadline has come.
  void close(std::chrono::steady_clock::time_point deadline) noexcept;

 private:
  struct State;
  const std::shared_ptr<State> state_;
};

}  // namespace lorax

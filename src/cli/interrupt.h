// Ctrl-C as a question between two steps of something long.
#pragma once

namespace lorax::cli {

// While it lives, the first SIGINT or SIGTERM is noted, and the next one ends the process as
// signals do by default. One at a time.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool has_come() const;
  // Ends the process by the signal that has come, so that a shell sees it, too; returns if none
  // has.
  void end_if_come() const;
};

}  // namespace lorax::cli

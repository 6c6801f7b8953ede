// Allocations that fail on demand, of all threads of this program: operator new, and aligned_alloc,
// which Asio calls.
#pragma once

#include <cstdint>

namespace lorax::testing {

// From here on the first allocations succeed, `burst` fail, and the rest succeeds. One at a time.
class FailingAllocations {
 public:
  FailingAllocations(int64_t first, int64_t burst);
  ~FailingAllocations() { stop(); }
  FailingAllocations(const FailingAllocations&) = delete;
  FailingAllocations& operator=(const FailingAllocations&) = delete;

  void stop();
  // Whether any has failed.
  static bool failed();
};

// On this thread none fails while this lives: it is the test's own work.
class Spared {
 public:
  Spared();
  ~Spared();
  Spared(const Spared&) = delete;
  Spared& operator=(const Spared&) = delete;
};

}  // namespace lorax::testing

// What one rendering may cost. Templates come from foreign files and messages from the network:
// every loop, every recursion and everything that can grow faster than its input asks here first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "text/jinja/template_error.h"

namespace lorax::jinja {

struct Limits {
  uint64_t steps = 4'000'000;        // expressions, statements, and items looked at
  size_t bytes = size_t{256} << 20;  // of all values made, dead ones included
  size_t output_bytes = size_t{32} << 20;
  int depth = 500;  // of expressions, statements, macros and loops in each other
};

// The largest nesting of lists and dicts in a value.
constexpr int kMaxNesting = 100;

// What can change after it was made, and so can come to hold itself.
class Mutable {
 public:
  virtual ~Mutable() = default;
  // Drops all values that it holds.
  virtual void clear() = 0;
};

// Throws TemplateError where a limit is passed. Of one rendering, hence of one thread; it outlives
// the rendering's values.
class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}
  ~Budget() {
    // One by one, so that neither a cycle leaks nor a long chain overflows the stack.
    for (const auto& kept : kept_) kept->clear();
  }
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  // Keeps the object to the end of the rendering.
  template <typename T>
  std::shared_ptr<T> keep(std::shared_ptr<T> object) {
    allocate(sizeof(T) + sizeof object);
    kept_.push_back(object);
    return object;
  }

  void step(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.steps) raise("takes more than {} steps", limits_.steps);
  }

  // Before `count` pieces of `size` bytes are made.
  void allocate(size_t count, size_t size = 1) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > limits_.bytes - bytes_) {
      raise("takes more than {} bytes of memory", limits_.bytes);
    }
    bytes_ += bytes;
  }

  // When the output has come to `bytes`.
  void output(size_t bytes) const {
    if (bytes > limits_.output_bytes) raise("writes more than {} bytes", limits_.output_bytes);
  }

  // One level deeper for as long as it lives.
  class Level {
   public:
    explicit Level(Budget& budget) : budget_(budget) {
      budget_.step();
      if (budget_.depth_ >= budget_.limits_.depth) {
        raise("nests deeper than {} levels", budget_.limits_.depth);
      }
      ++budget_.depth_;
    }
    ~Level() { --budget_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Budget& budget_;
  };

 private:
  Limits limits_;
  uint64_t steps_ = 0;
  size_t bytes_ = 0;
  int depth_ = 0;
  std::vector<std::shared_ptr<Mutable>> kept_;
};

}  // namespace lorax::jinja

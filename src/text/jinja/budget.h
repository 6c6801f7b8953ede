// What one rendering may cost. Templates come from foreign files and messages from the network:
// every loop, every recursion and everything that can grow faster than its input asks here first.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "text/jinja/template_error.h"

namespace lorax::jinja {

struct Limits {
  uint64_t steps = 4'000'000;  // expressions, statements, and items looked at
  // Of all values made, dead ones included: so much, and for each byte of the input so many more,
  // up to `most_bytes`, which bounds the input too.
  size_t bytes = size_t{8} << 20;
  size_t bytes_per_input = 16;
  size_t most_bytes = size_t{128} << 20;
  size_t output_bytes = size_t{32} << 20;
  int depth = 500;  // of expressions, statements, macros and loops in each other
  // From begin() on, and so much more for each MiB of the input.
  std::chrono::milliseconds time{50};
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
  explicit Budget(const Limits& limits) : limits_(limits), most_bytes_(limits.most_bytes) {}
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

  // What has been made so far was the input; now the template's own work begins.
  void begin();

  void step(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.steps) raise("takes more than {} steps", limits_.steps);
    spend(count);
  }

  // Before `count` pieces of `size` bytes are made.
  void allocate(size_t count, size_t size = 1) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > most_bytes_ - bytes_) {
      raise("takes more than {} bytes of memory", most_bytes_);
    }
    bytes_ += bytes;
    spend(bytes / kBytesPerStep);
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
  // Bytes that take about as long to make as a step.
  static constexpr size_t kBytesPerStep = 256;
  static constexpr uint64_t kStepsPerCheck = 1024;

  // The clock is looked at now and then.
  void spend(uint64_t steps) {
    spent_ += steps;
    if (spent_ >= kStepsPerCheck) check_time();
  }
  void check_time();

  Limits limits_;
  uint64_t steps_ = 0;
  uint64_t spent_ = 0;  // since the clock was looked at
  size_t bytes_ = 0;
  size_t most_bytes_;  // as the input allows
  std::optional<std::chrono::steady_clock::time_point> begun_;
  std::chrono::nanoseconds begun_cpu_{0};  // of the thread
  int depth_ = 0;
  std::vector<std::shared_ptr<Mutable>> kept_;
};

}  // namespace lorax::jinja

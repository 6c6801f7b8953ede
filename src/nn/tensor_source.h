// Where named weights come from: a checkpoint on disk, or random numbers in any shape.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "formats/safetensors_checkpoint.h"

namespace lorax {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // For error messages: the directory, or "random weights".
  virtual std::string describe() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  // Throws Error if there is no tensor of that name, or its shape or type does not fit.
  virtual void check(const std::string& name, std::span<const int64_t> shape) const = 0;
  // Every name there is; empty if any name is valid.
  virtual std::vector<std::string> names() const = 0;
  // Elements [first, first + count) in row-major order as float32, bfloat16 or float16, rounded to
  // nearest if narrower. Several threads may call it at once.
  virtual void read(const std::string& name, int64_t first, int64_t count, DType dtype,
                    void* to) const = 0;
};

class CheckpointSource final : public TensorSource {
 public:
  // `checkpoint` must outlive this.
  explicit CheckpointSource(const SafetensorsCheckpoint& checkpoint) : checkpoint_(checkpoint) {}

  std::string describe() const override;
  bool contains(const std::string& name) const override;
  void check(const std::string& name, std::span<const int64_t> shape) const override;
  std::vector<std::string> names() const override;
  void read(const std::string& name, int64_t first, int64_t count, DType dtype,
            void* to) const override;

 private:
  const SafetensorsCheckpoint& checkpoint_;
};

// Uniform values that depend on (seed, name, index) alone, with the standard deviation of trained
// weights: 0.02 for matrices, 0.1 for norms. Needs no storage.
class RandomSource final : public TensorSource {
 public:
  explicit RandomSource(uint64_t seed) : seed_(seed) {}

  std::string describe() const override { return "random weights"; }
  bool contains(const std::string&) const override { return false; }
  void check(const std::string&, std::span<const int64_t>) const override {}
  std::vector<std::string> names() const override { return {}; }
  void read(const std::string& name, int64_t first, int64_t count, DType dtype,
            void* to) const override;

 private:
  uint64_t seed_;
};

}  // namespace lorax

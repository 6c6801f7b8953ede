// Tensors for tests: values as double on the host, storage on any Device.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#include "device/device.h"

namespace lorax::testing {

// Row-major values; those of a tensor of 16-bit floats are exactly representable in it.
using Values = std::vector<double>;

inline constexpr DType kModelDtypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

// The names of the devices that this build and machine have: "cpu", perhaps "cuda".
std::vector<std::string> available_devices();
// The device of that name, the same one for all tests of the program.
Device& shared_device(const std::string& name);

// What a value becomes when it is stored in dtype.
double rounded(double value, DType dtype);

// Random and never zero: normal numbers times `scale`, rounded to dtype.
Values random_values(std::mt19937& random, DType dtype, size_t n, double scale = 1.0);

// A contiguous tensor that owns its storage.
class DeviceTensor {
 public:
  // Filled with NaN, or with bytes of 0xff (-1) for integers: what is not written shows.
  DeviceTensor(Device& device, DType dtype, std::initializer_list<int64_t> shape);
  // Filled with values.
  DeviceTensor(Device& device, DType dtype, std::initializer_list<int64_t> shape,
               const Values& values);
  // Filled with random_values. A large one repeats a block of a prime number of them, longer than
  // any row, so that no two of its first thousands of rows are alike.
  static DeviceTensor of_random(Device& device, DType dtype, std::initializer_list<int64_t> shape,
                                std::mt19937& random, double scale = 1.0);

  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }

  Values download() const;
  std::vector<char> bytes() const;

 private:
  void upload(const std::vector<char>& bytes);

  Device* device_;
  Buffer buffer_;
  Tensor tensor_;
};

// Checks got[i] against want[i] for all i: |got - want| <= absolute + relative * |want|. NaN and
// infinity never pass. Reports the worst element.
struct Tolerance {
  double relative = 0.0;
  double absolute = 0.0;
};
void expect_close(const Values& got, const Values& want, Tolerance tolerance);

// The same with an absolute tolerance of its own for each element, beside the one for all.
void expect_close(const Values& got, const Values& want, Tolerance tolerance, const Values& bounds);

// The tolerance of a result that is computed in float32 to about `relative` and then rounded once
// to dtype.
Tolerance rounding(DType dtype, double relative, double absolute = 0.0);

// The tolerance of a sum in float32 of n products of about `size` that may cancel, rounded to
// dtype. A GPU adds many of them one after the other, and its tensor cores cut off what is below
// the last place of a partial sum.
Tolerance rounding_of_sum(const Device& device, DType dtype, int64_t n, double size = 1.0);

}  // namespace lorax::testing

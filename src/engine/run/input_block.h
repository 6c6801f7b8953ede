// What the host tells the device for a step, collected in pinned memory and sent with one copy.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "device/device_memory.h"
#include "device/tensor.h"

namespace lorax {

class InputBlock {
 public:
  // `bytes`: the most between two begin(), as the sum of room_for(). The device must outlive this.
  InputBlock(DeviceMemory& device, size_t bytes, int64_t turns = 2);

  // What `count` values of T take.
  template <typename T>
  static size_t room_for(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

  // Begins anew. Blocks of host memory take turns: this waits only if the device has not yet come
  // to the copy from the block whose turn it is again.
  void begin();

  // A tensor on the device that holds `values` after send(), and until the next send() after a
  // begin(). The same sizes in the same order after begin() give the same addresses.
  template <typename T>
  Tensor put(std::span<const T> values, std::initializer_list<int64_t> shape) {
    const Tensor tensor(static_cast<char*>(device_block_.data()) + used_, dtype_of<T>(), shape);
    LORAX_CHECK(tensor.bytes() == values.size_bytes());
    LORAX_CHECK(used_ + values.size_bytes() <= device_block_.bytes());
    std::ranges::copy(std::as_bytes(values),
                      static_cast<std::byte*>(turns_[turn_].block.data()) + used_);
    used_ += room_for<T>(static_cast<int64_t>(values.size()));
    return tensor;
  }

  // One copy of all that was put.
  void send();

 private:
  static constexpr size_t kAlignment = 64;

  struct Turn {
    HostBuffer block;
    std::unique_ptr<DeviceEvent> copied;
  };

  DeviceMemory& device_;
  Buffer device_block_;
  std::vector<Turn> turns_;
  size_t turn_ = 0;
  size_t used_ = 0;
};

}  // namespace lorax

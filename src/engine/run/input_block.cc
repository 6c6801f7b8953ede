#include "engine/run/input_block.h"

#include <algorithm>

namespace lorax {

InputBlock::InputBlock(DeviceMemory& device, size_t bytes, int64_t turns)
    : device_(device),
      device_block_(device, std::max(bytes, kAlignment)),
      turns_(static_cast<size_t>(turns)) {
  for (Turn& turn : turns_) {
    turn.block = HostBuffer(device, device_block_.bytes());
    turn.copied = device.make_event();
  }
}

void InputBlock::begin() {
  turn_ = (turn_ + 1) % turns_.size();
  turns_[turn_].copied->wait();
  used_ = 0;
}

void InputBlock::send() {
  // The last tensor's tail is not part of what was put, but of the block.
  device_.copy_from_host(device_block_.data(), turns_[turn_].block.data(), used_);
  turns_[turn_].copied->record();
}

}  // namespace lorax

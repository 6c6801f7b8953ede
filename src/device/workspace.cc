#include "device/workspace.h"

#include <cstdint>

namespace lorax {

Tensor Workspace::take(DType dtype, std::initializer_list<int64_t> shape) {
  constexpr size_t kAlignment = 64;
  char* base = buffer_.data() != nullptr ? static_cast<char*>(buffer_.data())
                                         : reinterpret_cast<char*>(uintptr_t{kAlignment});
  Tensor tensor(base + used_, dtype, shape);
  used_ += (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  LORAX_CHECK(used_ <= capacity_, "workspace of {} bytes is too small for {}", capacity_,
              tensor.describe());
  peak_ = std::max(peak_, used_);
  return tensor;
}

}  // namespace lorax

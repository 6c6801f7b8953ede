// The one handle on bytes of any memory.
#pragma once

#include <cstddef>
#include <utility>

namespace lorax {

// Move-only bytes of a source, taken and given back by the two calls. Must not outlive the source.
template <typename Source, void* (Source::*kAllocate)(size_t),
          void (Source::*kDeallocate)(void*, size_t)>
class OwnedBytes {
 public:
  OwnedBytes() = default;
  // Throws what the source throws.
  OwnedBytes(Source& source, size_t bytes)
      : source_(&source), data_((source.*kAllocate)(bytes)), bytes_(bytes) {}
  ~OwnedBytes() {
    if (data_ != nullptr) (source_->*kDeallocate)(data_, bytes_);
  }
  OwnedBytes(OwnedBytes&& other) noexcept
      : source_(other.source_),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  OwnedBytes& operator=(OwnedBytes&& other) noexcept {
    std::swap(source_, other.source_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Source* source_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace lorax

// POSIX files: a descriptor that closes itself, and reading and writing that goes on until all is
// done.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace lorax {

// Owns an open file, or nothing (-1).
class FileDescriptor {
 public:
  explicit FileDescriptor(int value = -1) : value_(value) {}
  ~FileDescriptor() { close(); }
  FileDescriptor(FileDescriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }

  int get() const { return value_; }
  bool is_open() const { return value_ >= 0; }
  void close();

 private:
  int value_;
};

// The text of errno.
std::string system_error_text();

// Both move `bytes` bytes at `offset` of the file, and return why they could not, or "" if they
// did. They leave the position of the descriptor alone, so that threads can share it.
std::string read_fully(const FileDescriptor& file, void* to, uint64_t bytes, uint64_t offset);
std::string write_fully(const FileDescriptor& file, const void* from, uint64_t bytes,
                        uint64_t offset);

}  // namespace lorax

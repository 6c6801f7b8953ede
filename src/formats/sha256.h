// SHA-256 of content with structure: what is added is told apart from how it was cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace lorax {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  // Bytes as they are.
  void add_bytes(const void* data, size_t bytes);
  // With their length before them, so that ("ab", "c") and ("a", "bc") differ.
  void add_text(std::string_view text);
  void add_number(uint64_t value);

  // 64 hexadecimal digits. Nothing can be added after it.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace lorax

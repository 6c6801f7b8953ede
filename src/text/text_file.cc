#include "text/text_file.h"

#include <cstdint>
#include <fstream>

#include "base/error.h"

namespace lorax {

namespace fs = std::filesystem;

bool file_is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

std::string read_text_file(const fs::path& path) {
  constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (error) fail("{}: cannot be read: {}", path.string(), error.message());
  if (bytes > kMaxFileBytes) {
    fail("{}: {} bytes are more than a tokenizer's file may have ({})", path.string(), bytes,
         kMaxFileBytes);
  }
  std::string text(bytes, '\0');
  std::ifstream stream(path, std::ios::binary);
  if (!stream.read(text.data(), static_cast<std::streamsize>(bytes))) {
    fail("{}: cannot be read; check its permissions", path.string());
  }
  return text;
}

}  // namespace lorax

#include "text/text_file.h"

#include "formats/read_file.h"

namespace lorax {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;

}  // namespace

std::string read_text_file(const std::filesystem::path& path) {
  return read_file(path, kMaxFileBytes);
}

std::string read_text_file(const Folder& folder, const std::string& name) {
  return folder.read(name, kMaxFileBytes);
}

}  // namespace lorax

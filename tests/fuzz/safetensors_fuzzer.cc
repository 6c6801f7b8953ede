// A safetensors file from foreign hands: it opens and gives back its data, or is an Error of one
// short line.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/error.h"
#include "formats/safetensors.h"

namespace lorax {
namespace {

void check_message(std::string_view message) {
  LORAX_CHECK(message.size() < 3000, "{} bytes", message.size());
  LORAX_CHECK(
      std::ranges::none_of(message, [](char c) { return static_cast<unsigned char>(c) < 0x20; }),
      "{}", message);
}

// The tensors are the data section, byte for byte.
void check_tensors(const SafetensorsFile& file, std::string_view data) {
  uint64_t total = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    LORAX_CHECK(tensor.name == name && file.find(name) == &tensor);
    LORAX_CHECK(tensor.offset <= data.size() && tensor.bytes <= data.size() - tensor.offset);
    total += tensor.bytes;
    if (!tensor.dtype) continue;
    uint64_t expected = size_of(*tensor.dtype);
    for (int64_t size : tensor.shape) expected *= static_cast<uint64_t>(size);
    LORAX_CHECK(expected == tensor.bytes);
    std::vector<char> bytes(tensor.bytes);
    file.read(tensor, 0, tensor.bytes, bytes.data());
    LORAX_CHECK(std::ranges::equal(bytes, data.substr(tensor.offset, tensor.bytes)));
  }
  LORAX_CHECK(total == data.size());
}

void fuzz_file(std::string_view input) {
  static const int descriptor = ::memfd_create("fuzz", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  LORAX_CHECK(::ftruncate(descriptor, 0) == 0);
  LORAX_CHECK(::pwrite(descriptor, input.data(), input.size(), 0) ==
              static_cast<ssize_t>(input.size()));
  try {
    const SafetensorsFile file = SafetensorsFile::open(path);
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, input.data(), sizeof(header_bytes));
    check_tensors(file, input.substr(sizeof(header_bytes) + header_bytes));
  } catch (const Error& error) {
    check_message(error.what());
  }
}

// As the header of a file so long that none of its places is outside.
void fuzz_header(std::string_view json) {
  try {
    parse_safetensors_header(json, UINT64_MAX, "fuzz");
    LORAX_CHECK(false, "tensors end at 2^63 at most");
  } catch (const Error& error) {
    check_message(error.what());
  }
}

}  // namespace
}  // namespace lorax

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input{reinterpret_cast<const char*>(data), size};
  lorax::fuzz_file(input);
  if (size > 8) lorax::fuzz_header(input.substr(8));
  return 0;
}

// A safetensors file from foreign hands: the first 8 bytes give the length of the header as in the
// format, what follows it is the data.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/error.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | data[i];
  if (header_bytes > size - 8) return 0;
  const std::string_view text{reinterpret_cast<const char*>(data) + 8, header_bytes};
  const uint64_t data_bytes = size - 8 - header_bytes;
  try {
    const lorax::SafetensorsHeader header =
        lorax::parse_safetensors_header(text, data_bytes, "fuzz");
    for (const auto& [name, tensor] : header.tensors) {
      LORAX_CHECK(tensor.offset + tensor.bytes <= data_bytes);
    }
  } catch (const lorax::Error&) {
  }
  return 0;
}

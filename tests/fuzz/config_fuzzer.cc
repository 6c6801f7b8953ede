// config.json from foreign hands: either a config or an Error, whatever the bytes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "formats/json_file.h"
#include "models/gemma2/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const boost::json::value value =
        lorax::parse_json({reinterpret_cast<const char*>(data), size}, "config.json");
    if (value.is_object()) lorax::parse_gemma2_config(value.get_object(), "config.json");
  } catch (const lorax::Error&) {
  }
  return 0;
}

// tokenizer.json from foreign hands: either a tokenizer or an Error, whatever the bytes. The same
// bytes are the text that it encodes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "text/bpe_tokenizer.h"
#include "tokenizer_exercise.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const auto tokenizer = lorax::BpeTokenizer::from_json(bytes, "tokenizer.json");
    lorax::exercise(*tokenizer, bytes.substr(0, 1000));
    lorax::exercise(*tokenizer, bytes.substr(size - std::min<size_t>(size, 1000)));
  } catch (const lorax::Error&) {
  }
  return 0;
}

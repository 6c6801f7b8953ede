// Any text through both forms of one tokenizer: their ids and texts must agree.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "text/bpe_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/tokenizer.h"
#include "tokenizer_exercise.h"

namespace {

struct Forms {
  std::unique_ptr<lorax::Tokenizer> json;
  std::unique_ptr<lorax::Tokenizer> model;
};

// Run from the root of the repository, as tools/fuzz does.
Forms load_forms() {
  const std::filesystem::path folder = "tests/data/text/small";
  return {lorax::load_tokenizer_file(folder / "tokenizer.json"),
          lorax::load_tokenizer_file(folder / "tokenizer.model")};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Forms forms = load_forms();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (forms.json->encode(text) != forms.model->encode(text)) __builtin_trap();
  lorax::exercise(*forms.json, text);
  return 0;
}

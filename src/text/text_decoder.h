// From pieces to text: the decoder of a tokenizer.json, as Hugging Face's tokenizers runs it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/string_replace.h"

namespace lorax {

// The steps, in the order in which they run. Immutable, thread-safe.
struct TextDecoder {
  std::vector<Replacement> replacements;  // in each piece
  // A piece <0x..> is a byte. The bytes between two other pieces are text if together they are
  // valid UTF-8; otherwise each of them is U+FFFD.
  bool byte_fallback = false;
  // Up to this many times `strip_content` is dropped from the start of the whole text.
  size_t strip_start = 0;
  std::string strip_content;
};

// One text in the making. Since a later byte can turn a run of bytes into U+FFFD, the text of a run
// comes with the first piece behind it.
class TextDecoding {
 public:
  // The decoder must outlive this.
  explicit TextDecoding(const TextDecoder& decoder)
      : decoder_(decoder), strip_left_(decoder.strip_start) {}

  // The text, whole code points, that is certain now and was not before. Amortized time: linear in
  // the piece.
  std::string push(std::string_view piece);
  // The rest. Nothing may be pushed after.
  std::string finish();

 private:
  void flush_bytes(std::string& out);
  void emit(std::string_view text, std::string& out);

  const TextDecoder& decoder_;
  std::string bytes_;  // of the run that is not finished
  size_t strip_left_;
};

}  // namespace lorax

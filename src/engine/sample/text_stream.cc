#include "engine/sample/text_stream.h"

#include <utility>

#include "base/check.h"

namespace lorax {

TextStream::TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops)
    : detokenizer_(tokenizer, /*skip_special_tokens=*/true), matcher_(stops) {}

std::string TextStream::push(int32_t id, bool may_stop) {
  LORAX_CHECK(!stopped());
  std::string delta = take(detokenizer_.push(id), may_stop);
  if (stopped() || matcher_.empty() || !may_stop) return delta;
  // Bytes wait for the token behind them, which will not come if they complete a stop string.
  const std::string pending = IncrementalDetokenizer(detokenizer_).finish();
  if (pending.empty() || StopMatcher(matcher_).push(pending).stop == nullptr) return delta;
  return delta + take(detokenizer_.finish());
}

std::string TextStream::finish() {
  if (stopped()) return {};
  std::string rest = take(detokenizer_.finish());
  if (!stopped()) rest += held_;
  held_.clear();
  return rest;
}

std::string TextStream::take(const std::string& text, bool may_stop) {
  if (matcher_.empty()) return text;
  StopMatcher::Match match = matcher_.push(text);
  for (size_t at = match.end; !may_stop && match.stop != nullptr; at += match.end) {
    match = matcher_.push(std::string_view(text).substr(at));
  }
  if (match.stop == nullptr) {
    held_ += text;
    std::string out = held_.substr(0, held_.size() - matcher_.held_back());
    held_.erase(0, out.size());
    return out;
  }
  stop_ = match.stop;
  held_ += text.substr(0, match.end);
  held_.resize(held_.size() - stop_->size());
  return std::exchange(held_, {});
}

std::string spell_token(const Tokenizer& tokenizer, int32_t id) {
  TextDecoder decoder = tokenizer.text_decoder();
  decoder.strip_start = 0;  // it is not at the start of a text
  TextDecoding decoding(decoder);
  std::string text = decoding.push(tokenizer.piece(id));
  return text + decoding.finish();
}

}  // namespace lorax

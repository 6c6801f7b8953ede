#include "text/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"
#include "text/vocabulary.h"

namespace lorax {
namespace {

// The code points with Unicode's property White_Space, as UTF-8.
constexpr std::string_view kWhiteSpace[] = {
    "\t",           "\n",           "\v",           "\f",           "\r",           " ",
    "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81", "\xE2\x80\x82",
    "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86", "\xE2\x80\x87", "\xE2\x80\x88",
    "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F",
    "\xE3\x80\x80"};

bool is_white_space(std::string_view code_point) {
  return std::find(std::begin(kWhiteSpace), std::end(kWhiteSpace), code_point) !=
         std::end(kWhiteSpace);
}

size_t white_space_at_start(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const size_t length = utf8_length_of_lead(text[end]);
    if (!is_white_space(text.substr(end, length))) break;
    end += length;
  }
  return end;
}

size_t white_space_at_end(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t lead = begin - 1;
    while (lead > 0 && (static_cast<uint8_t>(text[lead]) & 0xC0) == 0x80) --lead;
    if (!is_white_space(text.substr(lead, begin - lead))) break;
    begin = lead;
  }
  return text.size() - begin;
}

uint8_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::ranges::stable_sort(tokens_, {}, &AddedToken::content);
  const auto same = [](const AddedToken& a, const AddedToken& b) { return a.content == b.content; };
  tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), same), tokens_.end());
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    Range& range = by_lead_[byte_at(tokens_[i].content, 0)];
    if (range.last == 0) range.first = i;
    range.last = i + 1;
  }
}

const AddedToken* AddedTokenMatcher::longest_prefix(std::string_view text) const {
  // Each byte of the text narrows the range of tokens that start with the bytes up to it; the
  // shortest of a range comes first and matches if it ends there.
  Range range = by_lead_[byte_at(text, 0)];
  const AddedToken* longest = nullptr;
  const auto index_of = [&](std::vector<AddedToken>::const_iterator token) {
    return static_cast<uint32_t>(token - tokens_.begin());
  };
  for (size_t depth = 1; range.first < range.last; ++depth) {
    if (tokens_[range.first].content.size() == depth) longest = &tokens_[range.first++];
    if (depth == text.size()) break;
    const auto next_byte = [&](const AddedToken& token) { return byte_at(token.content, depth); };
    const auto first = tokens_.begin() + range.first;
    const auto last = tokens_.begin() + range.last;
    const uint8_t wanted = byte_at(text, depth);
    range.first = index_of(std::ranges::lower_bound(first, last, wanted, {}, next_byte));
    range.last = index_of(std::ranges::upper_bound(first, last, wanted, {}, next_byte));
  }
  return longest;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Part> parts;
  const auto push_text = [&](size_t first, size_t last) {
    if (first < last) parts.push_back({text.substr(first, last - first), Vocabulary::kNone});
  };
  size_t done = 0;  // the parts hold the text before this
  size_t at = 0;
  // The white space behind the last token with rstrip, kept lest each token in it looks again.
  size_t white_first = 0;
  size_t white_last = 0;
  while (at < text.size()) {
    const AddedToken* token = longest_prefix(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t first = at;
    // As in the reference, white space that this token takes along is still searched for tokens.
    at += token->content.size();
    size_t last = at;
    if (token->lstrip && first > done) {
      first -= white_space_at_end(text.substr(done, first - done));
    }
    if (token->rstrip) {
      if (last < white_first || last >= white_last) {
        white_first = last;
        white_last = last + white_space_at_start(text.substr(last));
      }
      last = white_last;
    }
    push_text(done, first);
    parts.push_back({text.substr(first, last - first), token->id});
    done = last;
  }
  push_text(done, text.size());
  return parts;
}

}  // namespace lorax

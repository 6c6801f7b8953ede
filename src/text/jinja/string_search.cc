#include "text/jinja/string_search.h"

#include <algorithm>
#include <cstring>

#include "text/jinja/unicode.h"

namespace lorax::jinja {

Range character_range(std::string_view text, const Value& start, const Value& end) {
  const auto length = static_cast<Integer>(count_characters(text));
  const auto read = [&](const Value& bound, Integer otherwise) -> Integer {
    if (bound.is_none()) return otherwise;
    const auto index = bound.integer();
    if (!index) raise("slice indices must be integers or None or have an __index__ method");
    return *index < 0 ? std::max<Integer>(*index + length, 0) : *index;
  };
  const Integer begin = read(start, 0);
  const Integer stop = std::min(read(end, length), length);
  if (begin > length || begin > stop) return {{}, 0, false};
  const size_t first = byte_of_character(text, static_cast<size_t>(begin));
  const size_t last = byte_of_character(text, static_cast<size_t>(stop));
  return {text.substr(first, last - first), static_cast<size_t>(begin), true};
}

size_t find_text(std::string_view text, std::string_view wanted, size_t from) {
  const std::string_view rest = text.substr(from);
  const void* found = ::memmem(rest.data(), rest.size(), wanted.data(), wanted.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t find_last_text(std::string_view text, std::string_view wanted) {
  const std::string backward(text.rbegin(), text.rend());
  const size_t found = find_text(backward, std::string(wanted.rbegin(), wanted.rend()));
  return found == std::string_view::npos ? found : text.size() - found - wanted.size();
}

std::vector<std::string_view> split_on(std::string_view text, std::string_view separator,
                                       size_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  if (from_right) {
    // In one backward text, so that the whole costs what one search does.
    const std::string backward(text.rbegin(), text.rend());
    const std::string backward_separator(separator.rbegin(), separator.rend());
    size_t from = 0;
    while (parts.size() < limit) {
      const size_t at = find_text(backward, backward_separator, from);
      if (at == std::string_view::npos) break;
      parts.push_back(text.substr(text.size() - at, at - from));
      from = at + separator.size();
    }
    parts.push_back(text.substr(0, text.size() - from));
    std::ranges::reverse(parts);
    return parts;
  }
  while (parts.size() < limit) {
    const size_t at = find_text(text, separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return parts;
}

namespace {

// The white space or the word at one end of the text.
std::string_view word_at_start(std::string_view text) {
  size_t end = 0;
  while (end < text.size() && !is_space(code_point_at(text, end))) {
    end += character_at(text, end).size();
  }
  return text.substr(0, end);
}

std::string_view word_at_end(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    const std::string_view last = last_character(text.substr(0, begin));
    if (is_space(code_point_at(last, 0))) break;
    begin -= last.size();
  }
  return text.substr(begin);
}

}  // namespace

std::vector<std::string_view> split_on_space(std::string_view text, size_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  text = from_right ? strip_right(text) : strip_left(text);
  while (!text.empty()) {
    if (parts.size() == limit) {
      parts.push_back(from_right ? strip_right(text) : text);
      break;
    }
    if (from_right) {
      parts.push_back(word_at_end(text));
      text.remove_suffix(parts.back().size());
      text = strip_right(text);
    } else {
      parts.push_back(word_at_start(text));
      text.remove_prefix(parts.back().size());
      text = strip_left(text);
    }
  }
  if (from_right) std::ranges::reverse(parts);
  return parts;
}

size_t count_occurrences(std::string_view text, std::string_view wanted) {
  if (wanted.empty()) return count_characters(text) + 1;
  size_t count = 0;
  for (size_t at = find_text(text, wanted); at != std::string_view::npos;
       at = find_text(text, wanted, at + wanted.size())) {
    ++count;
  }
  return count;
}

std::string replace_occurrences(Budget& budget, std::string_view text, std::string_view wanted,
                                std::string_view replacement, Integer limit) {
  const size_t found = count_occurrences(text, wanted);
  const size_t count =
      limit < 0 ? found : static_cast<size_t>(std::min(limit, static_cast<Integer>(found)));
  budget.allocate(count, replacement.size());
  budget.allocate(text.size());
  std::string out;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    if (wanted.empty()) {
      // Before each character, and at the end.
      out += replacement;
      if (at < text.size()) {
        out += character_at(text, at);
        at += character_at(text, at).size();
      }
      continue;
    }
    const size_t next = find_text(text, wanted, at);
    out += text.substr(at, next - at);
    out += replacement;
    at = next + wanted.size();
  }
  return out += text.substr(at);
}

std::string pad_text(Budget& budget, std::string_view text, Integer width, std::string_view fill,
                     int side) {
  const auto length = static_cast<Integer>(count_characters(text));
  const Integer missing = std::max<Integer>(width - length, 0);
  budget.allocate(static_cast<size_t>(std::min<Integer>(missing, SIZE_MAX)), fill.size());
  // str.center puts the odd one out left if both it and the width are odd.
  const Integer left = side < 0 ? 0 : side > 0 ? missing : missing / 2 + (missing & width & 1);
  std::string out;
  for (Integer i = 0; i < left; ++i) out += fill;
  out += text;
  for (Integer i = left; i < missing; ++i) out += fill;
  return out;
}

}  // namespace lorax::jinja

#include "formats/json_file.h"

#include <algorithm>
#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/value_stack.hpp>

#include "base/error.h"
#include "formats/printable.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxValues = 4'000'000;
constexpr size_t kPieceBytes = 64 << 10;

// Numbers that Python's json writes and RFC 8259 does not have, of which Boost's parser knows
// nothing either. It is given a text in each one's place, which begins with a NUL.
struct PythonNumber {
  std::string_view name;
  std::string_view json;  // as it is handed to the parser
  std::string_view text;  // as it comes back
  double value;
};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr PythonNumber kPythonNumbers[] = {
    {"NaN", "\"\\u0000NaN\"", {"\0NaN", 4}, std::numeric_limits<double>::quiet_NaN()},
    {"Infinity", "\"\\u0000Infinity\"", {"\0Infinity", 9}, kInfinity},
    {"-Infinity", "\"\\u0000-Infinity\"", {"\0-Infinity", 10}, -kInfinity},
};

// Receives the parser's events and builds the value. Boost's own builder keeps the last of two
// equal keys and takes as much memory as the text asks for.
class ValueBuilder {
 public:
  static constexpr size_t max_object_size = SIZE_MAX;
  static constexpr size_t max_array_size = SIZE_MAX;
  static constexpr size_t max_key_size = SIZE_MAX;
  static constexpr size_t max_string_size = SIZE_MAX;

  ValueBuilder() { stack_.reset(); }

  // Why this builder stopped the parser; empty if it did not.
  const std::string& refusal() const { return refusal_; }
  json::value release() { return stack_.release(); }

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code& error) {
    keys_.emplace_back();
    return count(error);
  }
  bool on_object_end(size_t size, json::error_code&) {
    keys_.pop_back();
    stack_.push_object(size);
    return true;
  }
  bool on_array_begin(json::error_code& error) { return count(error); }
  bool on_array_end(size_t size, json::error_code&) {
    stack_.push_array(size);
    return true;
  }
  bool on_key_part(json::string_view part, size_t, json::error_code&) {
    key_.append(part);
    return true;
  }
  bool on_key(json::string_view part, size_t, json::error_code& error) {
    key_.append(part);
    if (key_.starts_with('\0')) return refuse(error, "a key is a number, or begins with a NUL");
    if (!keys_.back().insert(key_).second) {
      return refuse(error,
                    fmt::format("the key \"{}\" stands twice in one object", printable(key_)));
    }
    stack_.push_key(key_);
    key_.clear();
    return true;
  }
  bool on_string_part(json::string_view part, size_t, json::error_code&) {
    text_.append(part);
    return true;
  }
  bool on_string(json::string_view part, size_t, json::error_code& error) {
    text_.append(part);
    const auto* number = std::ranges::find(kPythonNumbers, text_, &PythonNumber::text);
    if (number != std::end(kPythonNumbers)) {
      stack_.push_double(number->value);
    } else {
      stack_.push_string(text_);
    }
    text_.clear();
    return count(error);
  }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t value, json::string_view, json::error_code& error) {
    stack_.push_int64(value);
    return count(error);
  }
  bool on_uint64(uint64_t value, json::string_view, json::error_code& error) {
    stack_.push_uint64(value);
    return count(error);
  }
  bool on_double(double value, json::string_view, json::error_code& error) {
    stack_.push_double(value);
    return count(error);
  }
  bool on_bool(bool value, json::error_code& error) {
    stack_.push_bool(value);
    return count(error);
  }
  bool on_null(json::error_code& error) {
    stack_.push_null();
    return count(error);
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  bool count(json::error_code& error) {
    return ++values_ <= kMaxValues ||
           refuse(error, fmt::format("it holds more than {} values", kMaxValues));
  }

  bool refuse(json::error_code& error, std::string reason) {
    refusal_ = std::move(reason);
    error = json::error::exception;  // any error ends the parse
    return false;
  }

  json::value_stack stack_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each object that is open
  std::string key_, text_;                             // the parts so far
  size_t values_ = 0;
  std::string refusal_;
};

using Parser = json::basic_parser<ValueBuilder>;

Parser make_parser() {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  return Parser(options);
}

// Feeds the text to the parser in pieces. Returns the length before the piece that failed, with
// `error` set, or that of the whole text.
size_t feed(Parser& parser, std::string_view text, size_t piece, json::error_code& error) {
  for (size_t at = 0; at < text.size(); at += piece) {
    const std::string_view part = text.substr(at, piece);
    const size_t consumed = parser.write_some(true, part.data(), part.size(), error);
    if (!error && consumed < part.size()) error = json::error::extra_data;
    if (error) return at;
  }
  parser.write_some(false, "", 0, error);
  return text.size();
}

// A text with Python's numbers replaced.
struct ReplacedText {
  std::string text;
  // Where in `text` a replacement begins and ends, and where that is in the original.
  struct Place {
    size_t begin, end, original_begin, original_end;
  };
  std::vector<Place> places;

  size_t original_byte(size_t byte) const {
    size_t original = byte;
    for (const Place& place : places) {
      if (place.begin < byte) original = place.original_begin;
      if (place.end <= byte) original = place.original_end + byte - place.end;
    }
    return original;
  }
};

ReplacedText replace_python_numbers(std::string_view text) {
  ReplacedText replaced;
  bool in_string = false;
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    const auto* number = std::ranges::find_if(kPythonNumbers, [&](const PythonNumber& candidate) {
      return !in_string && rest.starts_with(candidate.name);
    });
    if (number != std::end(kPythonNumbers)) {
      const size_t begin = replaced.text.size(), end = at + number->name.size();
      replaced.text += number->json;
      replaced.places.push_back({begin, replaced.text.size(), at, end});
      at = end;
      continue;
    }
    const size_t escaped = in_string && rest[0] == '\\' && rest.size() > 1 ? 2 : 1;
    if (rest[0] == '"') in_string = !in_string;
    replaced.text += rest.substr(0, escaped);
    at += escaped;
  }
  return replaced;
}

// Why the text cannot be parsed, and at which byte. The parser does not tell where it stopped, so
// this takes the piece that failed, which begins at `piece`, byte by byte.
[[noreturn]] void fail_at(std::string_view text, size_t piece, std::string_view origin,
                          const ReplacedText* replaced) {
  Parser parser = make_parser();
  json::error_code error;
  parser.write_some(true, text.data(), piece, error);
  size_t byte = piece + feed(parser, text.substr(piece), 1, error);
  if (replaced != nullptr) byte = replaced->original_byte(byte);
  if (!parser.handler().refusal().empty()) {
    fail("{}: byte {}: {}", origin, byte, parser.handler().refusal());
  }
  fail("{}: not valid JSON at byte {}: {}", origin, byte, error.message());
}

json::value parse(std::string_view text, std::string_view origin, const ReplacedText* replaced) {
  size_t fed = 0;
  {
    Parser parser = make_parser();
    json::error_code error;
    fed = feed(parser, text, kPieceBytes, error);
    if (!error) return parser.handler().release();
  }
  fail_at(text, fed, origin, replaced);
}

}  // namespace

json::value parse_json(std::string_view text, std::string_view origin) {
  return parse(text, origin, nullptr);
}

json::value parse_python_json(std::string_view text, std::string_view origin) {
  if (text.find("NaN") == text.npos && text.find("Infinity") == text.npos) {
    return parse(text, origin, nullptr);
  }
  const ReplacedText replaced = replace_python_numbers(text);
  return parse(replaced.text, origin, &replaced);
}

json::value read_json_file(const std::filesystem::path& file, uint64_t max_bytes) {
  return parse_python_json(read_file(file, max_bytes), file.string());
}

}  // namespace lorax

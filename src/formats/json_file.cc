#include "formats/json_file.h"

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parse.hpp>

#include "base/error.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr size_t kMaxDepth = 32;

// Walks the text once and remembers the keys of the objects it is in; the values are ignored.
class DuplicateKeyHandler {
 public:
  static constexpr size_t max_object_size = SIZE_MAX;
  static constexpr size_t max_array_size = SIZE_MAX;
  static constexpr size_t max_key_size = SIZE_MAX;
  static constexpr size_t max_string_size = SIZE_MAX;

  const std::string& duplicate() const { return duplicate_; }

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    keys_.emplace_back();
    return true;
  }
  bool on_object_end(size_t, json::error_code&) {
    keys_.pop_back();
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(size_t, json::error_code&) { return true; }
  bool on_key_part(json::string_view part, size_t, json::error_code&) {
    key_.append(part);
    return true;
  }
  bool on_key(json::string_view part, size_t, json::error_code& error) {
    key_.append(part);
    if (!keys_.back().insert(key_).second) {
      duplicate_ = key_;
      error = json::error::exception;
      return false;
    }
    key_.clear();
    return true;
  }
  bool on_string_part(json::string_view, size_t, json::error_code&) { return true; }
  bool on_string(json::string_view, size_t, json::error_code&) { return true; }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(int64_t, json::string_view, json::error_code&) { return true; }
  bool on_uint64(uint64_t, json::string_view, json::error_code&) { return true; }
  bool on_double(double, json::string_view, json::error_code&) { return true; }
  bool on_bool(bool, json::error_code&) { return true; }
  bool on_null(json::error_code&) { return true; }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

 private:
  std::vector<std::set<std::string>> keys_;
  std::string key_;
  std::string duplicate_;
};

}  // namespace

json::value parse_json(std::string_view text, std::string_view origin) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<DuplicateKeyHandler> checker(options);
  json::error_code error;
  const size_t consumed = checker.write_some(false, text.data(), text.size(), error);
  if (!checker.handler().duplicate().empty()) {
    fail("{}: the key \"{}\" stands twice in one object", origin, checker.handler().duplicate());
  }
  if (!error && text.find_first_not_of(" \t\r\n", consumed) != std::string_view::npos) {
    error = json::error::extra_data;
  }
  if (error) fail("{}: not valid JSON at byte {}: {}", origin, consumed, error.message());
  json::value value = json::parse(text, error, {}, options);
  if (error) fail("{}: not valid JSON: {}", origin, error.message());
  return value;
}

std::string read_file(const std::filesystem::path& file, uint64_t max_bytes) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) fail("{}: no such file", file.string());
  const uint64_t bytes = std::filesystem::file_size(file, error);
  if (error) fail("{}: cannot be read: {}", file.string(), error.message());
  if (bytes > max_bytes) {
    fail("{}: {} bytes are more than such a file may have ({})", file.string(), bytes, max_bytes);
  }
  std::string text(bytes, '\0');
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(text.data(), static_cast<std::streamsize>(bytes))) {
    fail("{}: cannot be read; check its permissions", file.string());
  }
  return text;
}

json::value read_json_file(const std::filesystem::path& file, uint64_t max_bytes) {
  return parse_json(read_file(file, max_bytes), file.string());
}

}  // namespace lorax

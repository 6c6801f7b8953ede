#include "adapters/peft/config_reader.h"

#include <boost/json/serialize.hpp>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/printable.h"

namespace lorax {

namespace json = boost::json;

namespace {

// More than any real list has; each name costs a comparison with every module.
constexpr size_t kMaxTexts = 20'000;

bool says_nothing(const json::value& value) {
  if (value.is_null()) return true;
  if (value.is_bool()) return !value.get_bool();
  if (value.is_array()) return value.get_array().empty();
  if (value.is_object()) return value.get_object().empty();
  return value.is_string() && value.get_string().empty();
}

}  // namespace

bool read_integer(const json::value& value, int64_t min, int64_t max, int64_t& to) {
  if (!value.is_int64() || value.get_int64() < min || value.get_int64() > max) return false;
  to = value.get_int64();
  return true;
}

bool read_number(const json::value& value, double& to) {
  boost::system::error_code error;
  if (!value.is_number()) return false;
  to = value.to_number<double>(error);
  return !error && std::isfinite(to);
}

const json::value* ConfigReader::find(std::string_view key) {
  known_.emplace(key);
  const json::value* value = object_.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

void ConfigReader::bad(std::string_view key, std::string_view must) const {
  const json::value* value = object_.if_contains(key);
  fail("{}: {} is {}; it must be {}", origin_, key,
       value == nullptr ? "missing" : printable(json::serialize(*value)), must);
}

bool ConfigReader::boolean(std::string_view key, bool otherwise) {
  const json::value* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_bool()) bad(key, "true or false");
  return value->get_bool();
}

int64_t ConfigReader::integer(std::string_view key, int64_t min, int64_t max, int64_t otherwise) {
  const json::value* value = find(key);
  int64_t result = otherwise;
  if (value != nullptr && !read_integer(*value, min, max, result)) {
    bad(key, fmt::format("an integer from {} to {}", min, max));
  }
  return result;
}

double ConfigReader::number(std::string_view key, double otherwise) {
  const json::value* value = find(key);
  double result = otherwise;
  if (value != nullptr && !read_number(*value, result)) bad(key, "a number");
  return result;
}

std::string ConfigReader::text(std::string_view key) {
  const json::value* value = find(key);
  if (value == nullptr) return "";
  if (!value->is_string()) bad(key, "a text");
  return std::string(value->get_string());
}

std::vector<std::string> ConfigReader::texts(std::string_view key) {
  const json::value* value = find(key);
  if (value == nullptr) return {};
  if (value->is_string()) return {std::string(value->get_string())};
  if (!value->is_array()) bad(key, "a list of texts");
  if (value->get_array().size() > kMaxTexts) {
    fail("{}: {} lists {} texts; at most {} are read", origin_, key, value->get_array().size(),
         kMaxTexts);
  }
  std::vector<std::string> result;
  for (const json::value& item : value->get_array()) {
    if (!item.is_string()) bad(key, "a list of texts");
    result.emplace_back(item.get_string());
  }
  return result;
}

void ConfigReader::check_rest(std::span<const std::string> ignored,
                              std::vector<std::string>& warnings) const {
  for (const json::key_value_pair& item : object_) {
    const std::string_view key = item.key();
    if (known_.contains(key) || says_nothing(item.value())) continue;
    if (std::ranges::find(ignored, key) != ignored.end()) {
      warnings.push_back(fmt::format("{}: {} is {}, and is ignored as was asked for", origin_,
                                     printable(key), printable(json::serialize(item.value()))));
      continue;
    }
    fail(
        "{}: {} is {}, which this program does not implement; only adapters in which it is null, "
        "false or empty can be served, unless --ignore-adapter-config-key {} says that it may be "
        "ignored",
        origin_, printable(key), printable(json::serialize(item.value())), printable(key));
  }
}

}  // namespace lorax

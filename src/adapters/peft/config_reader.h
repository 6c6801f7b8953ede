// Typed access to the keys of a JSON object from foreign hands.
#pragma once

#include <boost/json/value.hpp>

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lorax {

// Every call throws Error that begins with `origin` and names the key if its value has another
// type. A key that is absent or null is not there. Keys asked for are remembered.
class ConfigReader {
 public:
  // Both must outlive this.
  ConfigReader(const boost::json::object& object, std::string_view origin)
      : object_(object), origin_(origin) {}

  std::string_view origin() const { return origin_; }
  // nullptr if it is not there.
  const boost::json::value* find(std::string_view key);

  bool boolean(std::string_view key, bool otherwise);
  int64_t integer(std::string_view key, int64_t min, int64_t max, int64_t otherwise);
  double number(std::string_view key, double otherwise);
  std::string text(std::string_view key);  // "" if it is not there
  // A list of texts, or one text alone.
  std::vector<std::string> texts(std::string_view key);

  // Throws Error unless each key that nobody asked for has a value that says nothing: null, false,
  // or an empty list, object or text. One of `ignored` gives a warning instead.
  void check_rest(std::span<const std::string> ignored, std::vector<std::string>& warnings) const;

  // "key is VALUE; it must be ..."
  [[noreturn]] void bad(std::string_view key, std::string_view must) const;

 private:
  const boost::json::object& object_;
  std::string_view origin_;
  std::set<std::string, std::less<>> known_;
};

// An integer of that range, also where JSON holds it unsigned; nothing for anything else.
bool read_integer(const boost::json::value& value, int64_t min, int64_t max, int64_t& to);
// A finite number, integral or not.
bool read_number(const boost::json::value& value, double& to);

}  // namespace lorax

// What a body holds beside the fields that its route reads. A client must not believe that
// something has been done for it: fields of the APIs that clients are written for (OpenAI's,
// LoRAX's, and those of TGI, vLLM, SGLang, llama.cpp and Transformers) are refused by name if their
// value asks for something; all others are taken and reported.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

namespace lorax {

// Where a field stands.
enum class FieldPlace { kRequest, kMessage, kStreamOptions };

// Paths of fields that have been taken and mean nothing to this server: "parameters.foo".
using IgnoredFields = std::vector<std::string>;

// Whether a value asks for nothing whatever its field is: null, "", [], {} and objects of such.
bool asks_for_nothing(const boost::json::value& value);

// Whether a field of that place and name is of one of those APIs, and the value asks for something.
bool asks_for_something(FieldPlace place, std::string_view name, const boost::json::value& value);

// Whether the value is how one of those APIs says that it wants nothing of the field, which need
// not be reported.
bool is_known_default(FieldPlace place, std::string_view name, const boost::json::value& value);

// What else of the object `is_read` does not take. Throws ApiError for what asks for something;
// appends `prefix` and the name of the rest to `ignored`. `hint` may say what to do about a name.
void take_unread(const boost::json::object& object, FieldPlace place, std::string_view prefix,
                 const std::function<bool(std::string_view name)>& is_read, IgnoredFields& ignored,
                 const std::function<std::string(std::string_view name)>& hint = {});

// The value of the header "x-ignored-fields": names separated by commas, cut off where it would
// grow long; what a header cannot hold is "?".
std::string ignored_header(const IgnoredFields& ignored);

}  // namespace lorax

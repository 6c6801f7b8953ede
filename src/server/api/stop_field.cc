#include "server/api/stop_field.h"

#include "server/api/request_fields.h"

namespace lorax::fields {

namespace json = boost::json;

void read_stop(const json::value& value, std::vector<std::string>& stop) {
  if (value.is_string()) {
    stop.emplace_back(value.get_string());
  } else if (value.is_array()) {
    read(value, "stop", stop);
  } else {
    wrong_type(value, "stop", "a string or a list of strings");
  }
}

json::object stop_schema(int64_t max_count) {
  json::object schema = {{"anyOf",
                          {{{"type", "string"}, {"minLength", 1}},
                           {{"type", "array"},
                            {"items", {{"type", "string"}, {"minLength", 1}}},
                            {"maxItems", max_count}},
                           {{"type", "null"}}}}};
  document(schema, {"Texts that end the generation where they first appear; they are cut off.",
                    R"(["\n"])"});
  return schema;
}

}  // namespace lorax::fields

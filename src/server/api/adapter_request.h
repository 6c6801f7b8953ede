// Which adapter a request names: adapter_id or merged_adapters.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/api/adapter_directory.h"
#include "server/api/foreign_fields.h"
#include "server/api/request_fields.h"
#include "server/api/tenant.h"

namespace lorax {

// What the REST API calls the base model; so does "".
inline constexpr std::string_view kBaseModelId = "__base_model__";

struct MergedAdapters {
  std::vector<std::string> ids;
  std::vector<double> weights;  // empty: 1 each
  std::optional<std::string> merge_strategy;
  std::optional<double> density;
  std::optional<std::string> majority_sign_method;
};

// The fields that requests of several routes share.
struct AdapterFields {
  std::optional<std::string> adapter_id;
  std::optional<std::string> adapter_source;
  std::optional<std::string> api_token;
  std::optional<MergedAdapters> merged_adapters;
  std::string cache_salt;
  IgnoredFields ignored;  // fields of the whole body
};

struct AdapterChoice {
  std::string id;    // the store's; "" for the base model
  std::string name;  // as clients call it, those of a merged one joined by commas; "" for the base
};

// The adapters that one client sees. To it, others do not exist.
class VisibleAdapters {
 public:
  // `tenant`: null where there are no API keys. Both must outlive this.
  VisibleAdapters(const AdapterDirectory& directory, const Tenant* tenant)
      : directory_(directory), tenant_(tenant) {}

  // As AdapterDirectory has them. The default is the base model for who does not see the adapter.
  std::string resolve(const std::string& name) const;
  std::string default_name() const;
  std::vector<AdapterDirectory::Entry> list() const;

 private:
  const AdapterDirectory& directory_;
  const Tenant* tenant_;
};

// The name that the fields give, of whatever it is; those of a merged one joined by commas; the
// default where they give none.
std::string named_adapter(const AdapterFields& fields, const VisibleAdapters& adapters);

// The choice that the fields make: the default where they name none. Throws ApiError.
AdapterChoice choose_adapter(const AdapterFields& fields, const VisibleAdapters& adapters);
// The adapter of one name. Throws ApiError.
AdapterChoice choose_adapter(const std::string& name, const VisibleAdapters& adapters);

const FieldTable<MergedAdapters>& merged_adapters_fields();

// Says in the schema of a table with the rows below that only one of the two names an adapter.
void exclude_both_adapter_fields(boost::json::object& schema);

// The rows of AdapterFields in the table of a request that has them.
template <typename Request>
void add_adapter_fields(FieldTable<Request>& table) {
  table.push_back(field<Request>(
      "adapter_id", &AdapterFields::adapter_id,
      {"The adapter, by its path below the server's adapter directory. None, \"\" and "
       "\"__base_model__\": the base model.",
       "\"pirate\""}));
  table.push_back(field<Request>(
      "adapter_source", &AdapterFields::adapter_source,
      {"Where the adapter comes from. This server knows \"local\" only.", "\"local\""}));
  table.push_back(field<Request>("api_token", &AdapterFields::api_token,
                                 {"For sources that need one; local adapters do not."}));
  Field<Request> salt = field<Request>(
      "cache_salt", &AdapterFields::cache_salt,
      {"Keys and values of this prompt are shared with requests of the same salt alone, so that "
       "nobody else learns from the time of an answer what has been sent. Best random and long.",
       "\"Vd8vqAaPDTxy3Y0bUNPnmQ\""});
  salt.schema["minLength"] = 1;
  salt.schema.erase("default");
  salt.read = [read = salt.read](const boost::json::value& value, Request& request) {
    read(value, request);
    if (request.cache_salt.empty()) refuse("cache_salt", "`cache_salt` must not be empty");
  };
  table.push_back(std::move(salt));
  Field<Request> merged;
  merged.name = "merged_adapters";
  merged.schema = schema_of(merged_adapters_fields());
  merged.schema["type"] = {"object", "null"};
  merged.schema["description"] = "Several adapters, merged into one. Not together with adapter_id.";
  merged.read = [](const boost::json::value& value, Request& request) {
    if (!value.is_object()) fields::wrong_type(value, "merged_adapters", "an object");
    read_fields(merged_adapters_fields(), value.get_object(), request.merged_adapters.emplace());
    take_unread(
        value.get_object(), FieldPlace::kRequest, "merged_adapters.",
        [](std::string_view name) { return has_field(merged_adapters_fields(), name); },
        request.ignored);
  };
  table.push_back(std::move(merged));
}

}  // namespace lorax

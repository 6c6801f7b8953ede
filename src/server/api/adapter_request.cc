#include "server/api/adapter_request.h"

#include <boost/algorithm/string/predicate.hpp>

#include "adapters/merge/merge_recipe.h"
#include "base/error.h"
#include "formats/printable.h"

namespace lorax {
namespace {

namespace json = boost::json;

// Names of all members stand in one response header.
constexpr size_t kMaxMembers = 16;

void read_weights(const json::value& value, std::vector<double>& weights) {
  if (!value.is_array()) fields::wrong_type(value, "weights", "a list of numbers");
  for (const json::value& weight : value.get_array()) {
    fields::read(weight, "weights", weights.emplace_back());
  }
}

void check_source(const AdapterFields& fields) {
  if (!fields.adapter_source) return;
  const std::string& source = *fields.adapter_source;
  if (boost::iequals(source, "local")) return;
  for (const char* known : {"hub", "s3", "pbase"}) {
    if (boost::iequals(source, known)) {
      refuse("adapter_source", fmt::format("`adapter_source` \"{}\" is not supported by this "
                                           "server; put the adapter into its adapter directory "
                                           "and use \"local\"",
                                           known));
    }
  }
  refuse("adapter_source",
         fmt::format("`adapter_source` \"{}\" is unknown; use \"local\"", printable(source)));
}

MergeRecipe read_recipe(const MergedAdapters& merged) {
  MergeRecipe recipe;
  MergeParameters& parameters = recipe.parameters;
  parameters.weights = merged.weights;
  if (parameters.weights.empty()) parameters.weights.assign(merged.ids.size(), 1.0);
  parameters.density = merged.density.value_or(0.0);
  try {
    if (merged.merge_strategy) parameters.strategy = parse_merge_strategy(*merged.merge_strategy);
    if (merged.majority_sign_method) {
      parameters.majority_sign_method = parse_majority_sign_method(*merged.majority_sign_method);
    }
    check_merge_parameters(parameters, merged.ids.size());
  } catch (const Error& error) {
    refuse("merged_adapters", error.what());
  }
  return recipe;
}

AdapterChoice choose_merged(const MergedAdapters& merged, const VisibleAdapters& adapters) {
  if (merged.ids.empty()) {
    refuse("merged_adapters",
           "at least one adapter ID must be provided when setting `merged_adapters`");
  }
  if (!merged.weights.empty() && merged.weights.size() != merged.ids.size()) {
    refuse("merged_adapters", "number of adapter IDs must match number of adapter weights");
  }
  if (merged.ids.size() > kMaxMembers) {
    refuse("merged_adapters", fmt::format("`merged_adapters` takes up to {} adapters. Given: {}",
                                          kMaxMembers, merged.ids.size()));
  }
  check_fields(merged_adapters_fields(), merged);
  MergeRecipe recipe = read_recipe(merged);
  AdapterChoice choice;
  for (const std::string& name : merged.ids) {
    const AdapterChoice member = choose_adapter(name, adapters);
    if (member.id.empty()) {
      refuse("merged_adapters", "the base model cannot be merged; leave it out of `ids`");
    }
    recipe.ids.push_back(member.id);
    if (!choice.name.empty()) choice.name += ',';
    choice.name += member.name;
  }
  choice.id = recipe.ids.size() == 1 ? recipe.ids.front() : id_of(recipe);
  return choice;
}

}  // namespace

void exclude_both_adapter_fields(json::object& schema) {
  schema["not"] = {{"required", {"adapter_id", "merged_adapters"}},
                   {"properties",
                    {{"adapter_id", {{"type", "string"}, {"minLength", 1}}},
                     {"merged_adapters", {{"type", "object"}}}}}};
}

const FieldTable<MergedAdapters>& merged_adapters_fields() {
  using M = MergedAdapters;
  static const FieldTable<M> table = [] {
    Field<M> weights;
    weights.name = "weights";
    weights.schema = {{"type", {"array", "null"}}, {"items", {{"type", "number"}}}};
    fields::document(weights.schema, {"One for each adapter. None: 1 each.", "[0.75, 0.25]"});
    weights.read = [](const json::value& value, M& merged) { read_weights(value, merged.weights); };
    return FieldTable<M>{
        required(field<M>("ids", &M::ids, {"The adapters.", R"(["caps", "verse-numbers"])"})),
        std::move(weights),
        field<M>("merge_strategy", &M::merge_strategy,
                 {"linear, ties, dare_linear or dare_ties. None: linear.", "\"ties\""}),
        field<M>("density", &M::density, NumberRange{.at_least = 0, .at_most = 1},
                 {"The share of values that ties and dare keep; they need one above 0.", "0.5"}),
        field<M>("majority_sign_method", &M::majority_sign_method,
                 {"How ties choose signs: total or frequency. None: total.", "\"total\""}),
    };
  }();
  return table;
}

std::string named_adapter(const AdapterFields& fields, const VisibleAdapters& adapters) {
  if (fields.merged_adapters) return fmt::format("{}", fmt::join(fields.merged_adapters->ids, ","));
  const std::string name = fields.adapter_id.value_or("");
  return name.empty() ? adapters.default_name() : name;
}

std::string VisibleAdapters::resolve(const std::string& name) const {
  if (!sees_adapter(tenant_, name)) AdapterDirectory::fail_as_unknown(name);
  return directory_.resolve(name);
}

std::string VisibleAdapters::default_name() const {
  return sees_adapter(tenant_, directory_.default_name()) ? directory_.default_name() : "";
}

std::vector<AdapterDirectory::Entry> VisibleAdapters::list() const {
  std::vector<AdapterDirectory::Entry> entries = directory_.list();
  std::erase_if(entries, [this](const AdapterDirectory::Entry& entry) {
    return !sees_adapter(tenant_, entry.name);
  });
  return entries;
}

AdapterChoice choose_adapter(const std::string& name, const VisibleAdapters& adapters) {
  if (name.empty() || name == kBaseModelId) return {};
  return {adapters.resolve(name), name};
}

AdapterChoice choose_adapter(const AdapterFields& fields, const VisibleAdapters& adapters) {
  if (!fields.adapter_id.value_or("").empty() && fields.merged_adapters) {
    refuse("adapter_id", "at most one of `adapter_id` or `merged_adapters` may be provided");
  }
  check_source(fields);
  if (fields.merged_adapters) return choose_merged(*fields.merged_adapters, adapters);
  return choose_adapter(named_adapter(fields, adapters), adapters);
}

}  // namespace lorax

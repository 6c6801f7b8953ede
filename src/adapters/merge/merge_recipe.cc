#include "adapters/merge/merge_recipe.h"

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/check.h"
#include "formats/json_file.h"

namespace lorax {
namespace {

namespace json = boost::json;

// A NUL begins it, which no path holds.
constexpr std::string_view kPrefix{"\0merge ", 7};

}  // namespace

std::string id_of(const MergeRecipe& recipe) {
  const MergeParameters& parameters = recipe.parameters;
  const json::object object = {
      {"ids", json::array(recipe.ids.begin(), recipe.ids.end())},
      {"weights", json::array(parameters.weights.begin(), parameters.weights.end())},
      {"merge_strategy", name_of(parameters.strategy)},
      {"density", parameters.density},
      {"majority_sign_method", name_of(parameters.majority_sign_method)}};
  return std::string(kPrefix) + json::serialize(object);
}

std::optional<MergeRecipe> parse_merge_id(std::string_view id) {
  if (!id.starts_with(kPrefix)) return std::nullopt;
  const json::value value = parse_json(id.substr(kPrefix.size()), "merged adapter");
  MergeRecipe recipe;
  for (const json::value& member : value.at("ids").as_array()) {
    recipe.ids.emplace_back(member.as_string());
  }
  for (const json::value& weight : value.at("weights").as_array()) {
    recipe.parameters.weights.push_back(weight.to_number<double>());
  }
  recipe.parameters.strategy = parse_merge_strategy(value.at("merge_strategy").as_string());
  recipe.parameters.density = value.at("density").to_number<double>();
  recipe.parameters.majority_sign_method =
      parse_majority_sign_method(value.at("majority_sign_method").as_string());
  return recipe;
}

}  // namespace lorax

#include "cli/adapter_options.h"

#include <fmt/format.h>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "base/standard_files.h"
#include "formats/printable.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;

[[noreturn]] void bad(const std::string& where, std::string_view key, const json::value& value,
                      std::string_view expected) {
  fail("{}: {} is {}; it must be {}", where, key, printable(json::serialize(value)), expected);
}

std::string text_of(const json::value& value, const std::string& where, std::string_view key) {
  if (!value.is_string()) bad(where, key, value, "a text");
  return std::string(value.get_string());
}

double number_of(const json::value& value, const std::string& where, std::string_view key) {
  if (!value.is_number()) bad(where, key, value, "a number");
  return value.to_number<double>();
}

const json::array& list_of(const json::value& value, const std::string& where,
                           std::string_view key) {
  if (!value.is_array()) bad(where, key, value, "a list");
  return value.get_array();
}

MergeRecipe read_recipe(const json::object& object, const std::string& where) {
  MergeRecipe recipe;
  for (const auto& [key, value] : object) {
    if (value.is_null()) continue;
    if (key == "ids") {
      for (const json::value& id : list_of(value, where, "ids")) {
        recipe.ids.push_back(text_of(id, where, "ids"));
      }
    } else if (key == "weights") {
      for (const json::value& weight : list_of(value, where, "weights")) {
        recipe.parameters.weights.push_back(number_of(weight, where, "weights"));
      }
    } else if (key == "merge_strategy") {
      recipe.parameters.strategy = parse_merge_strategy(text_of(value, where, key));
    } else if (key == "density") {
      recipe.parameters.density = number_of(value, where, key);
    } else if (key == "majority_sign_method") {
      recipe.parameters.majority_sign_method =
          parse_majority_sign_method(text_of(value, where, key));
    } else {
      fail(
          "{}: field \"{}\" is unknown; known: ids, weights, merge_strategy, density, "
          "majority_sign_method",
          where, printable(std::string_view(key)));
    }
  }
  if (recipe.parameters.weights.empty()) recipe.parameters.weights.assign(recipe.ids.size(), 1.0);
  check_merge_parameters(recipe.parameters, recipe.ids.size());
  return recipe;
}

}  // namespace

std::string adapter_id_of(const std::string& name) { return name == kBaseModelId ? "" : name; }

std::string read_adapter_id(const json::object& request, const std::string& where) {
  const auto find = [&](std::string_view key) {
    const json::value* value = request.if_contains(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  };
  const json::value* id = find("adapter_id");
  const json::value* merged = find("merged_adapters");
  if (id != nullptr && merged != nullptr) {
    fail("{}: adapter_id and merged_adapters exclude each other; give one of them", where);
  }
  if (id != nullptr) return adapter_id_of(text_of(*id, where, "adapter_id"));
  if (merged == nullptr) return "";
  if (!merged->is_object()) bad(where, "merged_adapters", *merged, "an object");
  return id_of(read_recipe(merged->get_object(), where + ": merged_adapters"));
}

CLI::Option* add_ignored_keys_flag(CLI::App& command, std::vector<std::string>& keys) {
  return command.add_option("--ignore-adapter-config-key", keys, kIgnoredKeysHelp)
      ->allow_extra_args(false);
}

void print_warning(const std::string& warning) { print_error(fmt::format("lorax: {}\n", warning)); }

LoadedAdapters load_adapters(LoadedModel& model, const std::string& model_id,
                             const std::vector<std::string>& ids,
                             const std::vector<std::string>& ignored_config_keys) {
  return LoadedAdapters(model, model_id, ids, print_warning, ignored_config_keys);
}

}  // namespace lorax::cli

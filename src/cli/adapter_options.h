// Adapters as the command line and request files name them.
#pragma once

#include <string>
#include <vector>

#include <CLI/App.hpp>
#include <boost/json/object.hpp>

#include "engine/load/loaded_adapters.h"
#include "server/api/adapter_request.h"

namespace lorax::cli {

// The id of LoadedAdapters for an adapter_id: "" for the base model.
std::string adapter_id_of(const std::string& name);

// The same for a request's "adapter_id" (a path, or null) or "merged_adapters" (ids are paths):
// {"ids": [..], "weights": [..], "merge_strategy": "linear" | "ties" | "dare_linear" | "dare_ties",
//  "density": d, "majority_sign_method": "total" | "frequency"}. Throws Error that begins with
// `where`.
std::string read_adapter_id(const boost::json::object& request, const std::string& where);

inline constexpr const char* kIgnoredKeysHelp =
    "A key of adapter_config.json that may have any value although this program does not implement "
    "it: a warning instead of an error. Give it again for more";
// --ignore-adapter-config-key
CLI::Option* add_ignored_keys_flag(CLI::App& command, std::vector<std::string>& keys);

// Warnings go to standard error.
LoadedAdapters load_adapters(LoadedModel& model, const std::string& model_id,
                             const std::vector<std::string>& ids,
                             const std::vector<std::string>& ignored_config_keys = {});
void print_warning(const std::string& warning);

}  // namespace lorax::cli

// A merged adapter by what it is made of, as a text that names it: the id under which the adapter
// store knows it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/merge/merge.h"

namespace lorax {

struct MergeRecipe {
  std::vector<std::string> ids;  // directories of the members
  MergeParameters parameters;
};

// Equal recipes have equal ids; no directory has such a name.
std::string id_of(const MergeRecipe& recipe);
// The inverse; nothing for an id of one adapter.
std::optional<MergeRecipe> parse_merge_id(std::string_view id);

}  // namespace lorax

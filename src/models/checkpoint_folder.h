// What somebody gave as a checkpoint that is none: a name on a hub, a mistyped path, one file of
// it, an adapter, a download that is not whole.
#pragma once

#include <filesystem>

namespace lorax {

// Throws Error, one line that says what the path is instead and what to do, unless it is a
// directory that holds a config.json.
void require_checkpoint(const std::filesystem::path& path);

}  // namespace lorax

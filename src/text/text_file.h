#pragma once

#include <filesystem>
#include <string>

#include "formats/folder.h"

namespace lorax {

// The bytes of a file of a tokenizer. Throws Error that names it if it cannot be read or is too
// large to be one.
std::string read_text_file(const std::filesystem::path& path);
std::string read_text_file(const Folder& folder, const std::string& name);

}  // namespace lorax

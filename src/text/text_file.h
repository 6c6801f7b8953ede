#pragma once

#include <filesystem>
#include <string>

namespace lorax {

bool file_is_there(const std::filesystem::path& path);

// The bytes of a file of a tokenizer. Throws Error that names it if it cannot be read or is too
// large to be one.
std::string read_text_file(const std::filesystem::path& path);

}  // namespace lorax

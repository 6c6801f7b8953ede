// Whole files as bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "formats/file_descriptor.h"

namespace lorax {

// A regular file, open for reading; a named pipe does not make it wait. Throws Error that names it.
FileDescriptor open_regular_file(const std::filesystem::path& file);

// The bytes of a file. Throws Error if it cannot be read, is no regular file, or has more than
// `max_bytes`.
std::string read_file(const std::filesystem::path& file, uint64_t max_bytes);
// The same of an open file that messages call `origin`.
std::string read_whole(const FileDescriptor& file, const std::string& origin, uint64_t max_bytes);

}  // namespace lorax

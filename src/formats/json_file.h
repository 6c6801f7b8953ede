// Strict reading of JSON from files and other foreign texts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <boost/json/value.hpp>

#include "formats/read_file.h"

namespace lorax {

// Parses one JSON value of RFC 8259. Throws Error that begins with `origin` and names the byte for
// a text that is not JSON, nests deeper than 32, holds more than 4 million values (each takes some
// 30 times its text), or names a key twice in one object (which most parsers resolve in silence,
// each its own way).
boost::json::value parse_json(std::string_view text, std::string_view origin);

// The same for texts that Python may have written: NaN, Infinity and -Infinity are numbers, which a
// reader must not take for finite ones.
boost::json::value parse_python_json(std::string_view text, std::string_view origin);

// The whole file, parsed as parse_python_json() does. Throws Error if it cannot be read or is
// larger than `max_bytes`.
boost::json::value read_json_file(const std::filesystem::path& file,
                                  uint64_t max_bytes = uint64_t{256} << 20);

}  // namespace lorax

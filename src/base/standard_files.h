// File descriptors 0 to 2, which belong to whoever has started the program: they may be closed,
// full, gone, or read by nobody.
#pragma once

#include <string_view>

namespace lorax {

// Opens /dev/null in the place of each of the three that is closed, so that no file or socket gets
// its number and is written to as if it were a log. From then on C's `stderr`, to which a failed
// CHECK and the standard library say their last words, waits for no reader either (print_error).
// To be called first.
void open_standard_files() noexcept;

// Writes to standard error, as far as that takes it: never throws, and waits for a reader only for
// moments. For the last words of a process; a server writes through its Log.
void print_error(std::string_view text) noexcept;

}  // namespace lorax

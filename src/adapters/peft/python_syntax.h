// What of a Python pattern PCRE2 would read differently.
#pragma once

#include <string>
#include <string_view>

namespace lorax {

// "" if Python's `re` and PCRE2 read the pattern alike as far as they read it; otherwise what
// stands in the way, as the end of a sentence.
std::string python_syntax_problem(std::string_view pattern);

}  // namespace lorax

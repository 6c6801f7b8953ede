// The regular expressions of adapter_config.json: Python's `re`, by way of PCRE2.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace lorax {

// A compiled pattern. Matching is bounded in time and memory and takes no stack: a pattern that
// backtracks without end is an Error. One thread at a time.
//
// Patterns mean what they mean in Python. What the two syntaxes read differently, and what Python
// refuses, is an Error: verbose mode, flags that do not stand at the start, conditionals, numbered
// octal escapes, \u and \N, POSIX classes, {,n}, and all that only Perl knows.
class PythonRegex {
 public:
  static constexpr size_t kMaxBytes = 65536;

  // Throws Error that begins with `origin` and shows the pattern.
  PythonRegex(std::string_view pattern, std::string_view origin);
  ~PythonRegex();
  PythonRegex(PythonRegex&&) noexcept;
  PythonRegex& operator=(PythonRegex&&) noexcept;

  // re.fullmatch(pattern, text). Throws Error if it takes too many steps.
  bool fullmatch(std::string_view text) const;
  // re.match(pattern, text): from the start of the text, not necessarily to its end.
  bool match(std::string_view text) const;
  // As match(), and then what the named group holds; nothing if there was no match or the group
  // took no part in it. The pattern must have the group.
  std::optional<std::string> match_group(std::string_view text, const char* group) const;

 private:
  struct Compiled;
  bool run(std::string_view text, unsigned options) const;

  std::unique_ptr<Compiled> compiled_;
};

}  // namespace lorax

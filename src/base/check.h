// CHECK(condition, "format", ...): an invariant of this program. A failed check prints the place
// and the message and aborts; it must never be reachable from input (input errors are
// lorax::Error).
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace lorax::internal {

[[noreturn]] inline void check_failed(const char* file, int line, const char* condition,
                                      const std::string& message = {}) {
  fmt::print(stderr, "{}:{}: CHECK({}) failed{}{}\n", file, line, condition,
             message.empty() ? "" : ": ", message);
  std::fflush(stderr);
  std::abort();
}

}  // namespace lorax::internal

#define LORAX_CHECK(condition, ...)                          \
  (__builtin_expect(static_cast<bool>(condition), 1)         \
       ? static_cast<void>(0)                                \
       : ::lorax::internal::check_failed(__FILE__, __LINE__, \
                                         #condition __VA_OPT__(, ::fmt::format(__VA_ARGS__))))

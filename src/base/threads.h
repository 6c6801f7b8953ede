// std::thread with an error that says what to change.
#pragma once

#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace lorax {

// Throws Error: `what` a thread is missing for, and the limits.
[[noreturn]] void fail_to_start_thread(std::string_view what, const std::system_error& error);

// Throws Error where the system gives no thread.
template <typename Function>
std::thread start_thread(std::string_view what, Function&& function) {
  try {
    return std::thread(std::forward<Function>(function));
  } catch (const std::system_error& error) {
    fail_to_start_thread(what, error);
  }
}

}  // namespace lorax

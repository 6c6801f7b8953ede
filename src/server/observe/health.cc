#include "server/observe/health.h"

#include <fmt/format.h>

namespace lorax {
namespace {

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

std::string Health::fault() {
  std::string fault = current_fault();
  const std::lock_guard lock(mutex_);
  // Times in it grow: one fault is told once.
  const bool is_new = fault.substr(0, fault.find(" for ")) != told_.substr(0, told_.find(" for "));
  if (is_new) {
    told_ = fault;
    sources_.on_change(fault);
  }
  return fault;
}

std::string Health::current_fault() const {
  if (!sources_.engine_works()) return "the engine has failed";
  if (patience_.count() == 0) return "";
  const std::chrono::nanoseconds engine = sources_.engine_busy();
  if (engine > patience_) {
    return fmt::format("the engine has been at one step for {:.0f} s", seconds(engine));
  }
  const std::chrono::nanoseconds loaders = sources_.loaders_stuck();
  if (loaders > patience_) {
    return fmt::format("no adapter has loaded, though some wait, for {:.0f} s", seconds(loaders));
  }
  return "";
}

}  // namespace lorax

// A completion handler of Asio that is not lost without a word.
//
// Between the end of an operation and the call of its handler Asio may need memory, and throws if
// there is none; the handler is then destroyed, and whoever waits for it would wait for ever.
#pragma once

#include <utility>

namespace lorax {

// Calls function(*owner, arguments...) once; if it is destroyed without that,
// owner->handler_lost(). `Owner` is a pointer, plain or shared.
template <typename Owner, typename Function>
class Completion {
 public:
  Completion(Owner owner, Function function)
      : owner_(std::move(owner)), function_(std::move(function)) {}
  Completion(Completion&& other) noexcept
      : owner_(std::exchange(other.owner_, nullptr)), function_(std::move(other.function_)) {}
  Completion& operator=(Completion&&) = delete;
  ~Completion() {
    if (owner_ != nullptr) owner_->handler_lost();
  }

  template <typename... Arguments>
  void operator()(Arguments&&... arguments) {
    const Owner owner = std::exchange(owner_, nullptr);
    function_(*owner, std::forward<Arguments>(arguments)...);
  }

 private:
  Owner owner_;
  Function function_;
};

}  // namespace lorax

#include "text/jinja/scope.h"

#include <algorithm>

namespace lorax::jinja {

const Value* Scope::find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->outer_) {
    const auto found =
        std::ranges::find(scope->variables_, name, &std::pair<std::string, Value>::first);
    if (found != scope->variables_.end()) return &found->second;
  }
  return nullptr;
}

void Scope::set(std::string_view name, Value value) {
  const auto found = std::ranges::find(variables_, name, &std::pair<std::string, Value>::first);
  if (found != variables_.end()) {
    found->second = std::move(value);
  } else {
    variables_.emplace_back(name, std::move(value));
  }
}

void Scope::capture() {
  for (Scope* scope = this; scope != nullptr && !scope->captured_; scope = scope->outer_) {
    scope->captured_ = true;
  }
}

ScopeStack::Entry::Entry(ScopeStack& stack, Scope& outer)
    : stack_(stack), previous_(stack.current_) {
  stack.current_ = &scope_.emplace_back(&outer);
}

ScopeStack::Entry::~Entry() {
  stack_.current_ = previous_;
  if (scope_.front().is_captured()) stack_.captured_.splice(stack_.captured_.end(), scope_);
}

}  // namespace lorax::jinja

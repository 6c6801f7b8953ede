// The variables of one rendering: a tree of scopes, of which the current one and those around it
// are seen.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace lorax::jinja {

class Scope {
 public:
  explicit Scope(Scope* outer) : outer_(outer) {}

  // Here or further out; null if there is none.
  const Value* find(std::string_view name) const;
  // Always here.
  void set(std::string_view name, Value value);

  // A macro was made here, which reads these variables for as long as it lives.
  void capture();
  bool is_captured() const { return captured_; }

 private:
  Scope* outer_;
  std::vector<std::pair<std::string, Value>> variables_;
  bool captured_ = false;
};

// Owns all scopes; those that macros captured live as long as it does.
class ScopeStack {
 public:
  ScopeStack() : current_(&root_) {}

  Scope& current() { return *current_; }

  // Makes a new scope current for as long as it lives: inside the current one, or inside `outer`.
  class Entry {
   public:
    Entry(ScopeStack& stack, Scope& outer);
    explicit Entry(ScopeStack& stack) : Entry(stack, stack.current()) {}
    ~Entry();
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

   private:
    ScopeStack& stack_;
    Scope* previous_;
    std::list<Scope> scope_;  // of one: it can be kept without memory
  };

 private:
  Scope root_{nullptr};
  Scope* current_;
  std::list<Scope> captured_;
};

}  // namespace lorax::jinja

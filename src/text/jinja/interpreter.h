// Renders a parsed template: walks its statements with the variables it is given.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/evaluator.h"
#include "text/jinja/parser.h"
#include "text/jinja/scope.h"

namespace lorax::jinja {

// Of one rendering.
class Interpreter {
 public:
  // `budget` must outlive the interpreter and all values that it makes.
  Interpreter(const Template& parsed, Budget& budget, std::time_t now);

  void set(std::string_view name, Value value) { scopes_.current().set(name, std::move(value)); }
  // Throws TemplateError.
  std::string render();
  // Where a TemplateError came up.
  int line() const { return evaluator_.line(); }

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };

  Flow run(const Body& body);
  // In the current scope, which was made for it.
  Flow run(const ScopedBody& body);
  Flow run(const Statement& statement);
  Flow execute(const Data& node);
  Flow execute(const Output& node);
  Flow execute(const If& node);
  Flow execute(const For& node);
  Flow execute(const Set& node);
  Flow execute(const SetBlock& node);
  Flow execute(const Macro& node);
  Flow execute(const CallBlock& node);
  Flow execute(const FilterBlock& node);
  Flow execute(const With& node);
  Flow execute(const Generation& node);
  Flow execute(const LoopControl& node);

  void write(std::string_view text);
  // What `body` writes, in a scope of its own; its flow goes to `flow`.
  std::string capture(const ScopedBody& body, Flow& flow);
  void assign(const Target& target, const Value& value);
  // The items of a for statement that meet its condition.
  Value filtered(const For& node, Value items);
  void loop_over(const For& node, Value items, int depth0);
  Value make_macro(const MacroBody& macro);
  std::string call_macro(const MacroBody& macro, Scope& scope, Args args);
  void bind_arguments(const MacroBody& macro, Args args);

  const Template& template_;
  Budget& budget_;
  ScopeStack scopes_;
  Evaluator evaluator_;
  std::string* out_ = nullptr;
};

}  // namespace lorax::jinja

#include "text/jinja/interpreter.h"

#include <algorithm>

#include "text/jinja/loop.h"
#include "text/jinja/python_text.h"

namespace lorax::jinja {
namespace {

// About what a macro keeps: itself, and the scope that it was made in.
constexpr size_t kMacroBytes = 512;

}  // namespace

Interpreter::Interpreter(const Template& parsed, Budget& budget, std::time_t now)
    : template_(parsed), budget_(budget), evaluator_(budget, scopes_, now) {}

std::string Interpreter::render() {
  std::string out;
  out_ = &out;
  // The template's own variables hide what it was given, and macros see both.
  const ScopeStack::Entry scope(scopes_);
  run(template_.body);
  return out;
}

Interpreter::Flow Interpreter::run(const Body& body) {
  for (const Statement& statement : body) {
    if (const Flow flow = run(statement); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run(const ScopedBody& body) {
  for (const std::string& name : body.hidden) {
    scopes_.current().set(name, Value::undefined("'" + name + "' is undefined"));
  }
  return run(body.statements);
}

Interpreter::Flow Interpreter::run(const Statement& statement) {
  const Budget::Level level(budget_);
  evaluator_.set_line(statement.line);
  return std::visit([this](const auto& node) { return execute(node); }, statement.node);
}

void Interpreter::write(std::string_view text) {
  budget_.allocate(text.size());
  budget_.output(out_->size() + text.size());
  *out_ += text;
}

std::string Interpreter::capture(const ScopedBody& body, Flow& flow) {
  std::string text;
  std::string* outer = std::exchange(out_, &text);
  const ScopeStack::Entry scope(scopes_);
  flow = run(body);
  out_ = outer;
  return text;
}

Interpreter::Flow Interpreter::execute(const Data& node) {
  write(node.text);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Output& node) {
  for (const ExprPtr& value : node.values) write(to_string(budget_, evaluator_.evaluate(*value)));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const If& node) {
  for (const auto& [condition, body] : node.branches) {
    if (evaluator_.evaluate(*condition).truth()) return run(body);
  }
  return run(node.otherwise);
}

Interpreter::Flow Interpreter::execute(const For& node) {
  loop_over(node, evaluator_.evaluate(*node.items), 0);
  return Flow::kNext;
}

Value Interpreter::filtered(const For& node, Value items) {
  if (node.condition == nullptr) return items;
  const int nesting = items.nesting();
  // The condition sees the scope around the loop, whatever is current when an item is asked for.
  // Only the loop reads these items, so that scope outlives them.
  Scope& outer = scopes_.current();
  return Value::iterator(
      budget_,
      [this, &node, &outer, cursor = Cursor(budget_, items)]() mutable -> std::optional<Value> {
        while (auto item = cursor.next()) {
          const ScopeStack::Entry scope(scopes_, outer);
          assign(node.target, *item);
          if (evaluator_.evaluate(*node.condition).truth()) return item;
        }
        return std::nullopt;
      },
      nesting);
}

void Interpreter::loop_over(const For& node, Value items, int depth0) {
  Loop::Recurse recurse;
  if (node.recursive) {
    recurse = [this, &node, &around = scopes_.current()](Value inner, int depth) -> Value {
      const ScopeStack::Entry scope(scopes_, around);
      std::string text;
      std::string* outer = std::exchange(out_, &text);
      loop_over(node, std::move(inner), depth);
      out_ = outer;
      return text;
    };
  }
  const auto loop =
      std::make_shared<Loop>(budget_, filtered(node, std::move(items)), std::move(recurse), depth0);
  struct Finish {
    ~Finish() { loop.finish(); }
    Loop& loop;
  } const finish{*loop};
  bool any = false;
  while (const auto item = loop->next()) {
    const ScopeStack::Entry scope(scopes_);
    assign(node.target, *item);
    scopes_.current().set("loop", Value(loop));
    const Flow flow = run(node.body);
    // Jinja counts the passes that come to the body's end.
    any = any || flow == Flow::kNext;
    if (flow == Flow::kBreak) break;
  }
  if (any) return;
  const ScopeStack::Entry scope(scopes_);
  run(node.otherwise);
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    const std::vector<Value> values = to_vector(budget_, value);
    if (values.size() != target.parts.size()) {
      raise("{} values to unpack (expected {}, got {})",
            values.size() < target.parts.size() ? "not enough" : "too many", target.parts.size(),
            values.size());
    }
    for (size_t i = 0; i < values.size(); ++i) assign(target.parts[i], values[i]);
  } else if (target.attribute.empty()) {
    scopes_.current().set(target.name, value);
  } else {
    const Value* object = scopes_.current().find(target.name);
    Namespace* space = object == nullptr ? nullptr : object->space();
    if (space == nullptr) raise("cannot assign attribute on non-namespace object");
    if (target.attribute.starts_with('_')) {
      raise("cannot store the attribute '{}', which begins with an underscore", target.attribute);
    }
    space->set(target.attribute, value);
  }
}

Interpreter::Flow Interpreter::execute(const Set& node) {
  assign(node.target, evaluator_.evaluate(*node.value));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const SetBlock& node) {
  Flow flow = Flow::kNext;
  std::string text = capture(node.body, flow);
  if (flow != Flow::kNext) return flow;
  Value value = node.filter == nullptr ? Value(std::move(text))
                                       : evaluator_.apply_filters(*node.filter, std::move(text));
  assign(node.target, value);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const FilterBlock& node) {
  Flow flow = Flow::kNext;
  std::string text = capture(node.body, flow);
  if (flow != Flow::kNext) return flow;
  write(to_string(budget_, evaluator_.apply_filters(*node.filter, std::move(text))));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Macro& node) {
  scopes_.current().set(node.macro.name, make_macro(node.macro));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const CallBlock& node) {
  const Value text = evaluator_.call_with(*node.call, "caller", make_macro(node.caller));
  write(to_string(budget_, text));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const With& node) {
  std::vector<Value> values;
  for (const auto& entry : node.values) values.push_back(evaluator_.evaluate(*entry.second));
  const ScopeStack::Entry scope(scopes_);
  for (size_t i = 0; i < values.size(); ++i) assign(node.values[i].first, values[i]);
  return run(node.body);
}

Interpreter::Flow Interpreter::execute(const Generation& node) {
  const ScopeStack::Entry scope(scopes_);
  return run(node.body);
}

Interpreter::Flow Interpreter::execute(const LoopControl& node) {
  return node.is_break ? Flow::kBreak : Flow::kContinue;
}

Value Interpreter::make_macro(const MacroBody& macro) {
  Scope& scope = scopes_.current();
  budget_.allocate(kMacroBytes);
  scope.capture();
  return Value::function(macro.name, [this, &macro, &scope](Args args) -> Value {
    return call_macro(macro, scope, std::move(args));
  });
}

std::string Interpreter::call_macro(const MacroBody& macro, Scope& scope, Args args) {
  const Budget::Level level(budget_);
  const ScopeStack::Entry entry(scopes_, scope);
  bind_arguments(macro, std::move(args));
  std::string text;
  std::string* outer = std::exchange(out_, &text);
  run(macro.body);
  out_ = outer;
  return text;
}

// As Jinja's Macro: positional arguments, then keywords, then defaults, which see the parameters
// before them; what is left goes to varargs, kwargs and caller if the body uses them.
void Interpreter::bind_arguments(const MacroBody& macro, Args args) {
  const auto take_keyword = [&](std::string_view name) -> std::optional<Value> {
    const auto found = std::ranges::find(args.keyword, name, &std::pair<std::string, Value>::first);
    if (found == args.keyword.end()) return std::nullopt;
    Value value = std::move(found->second);
    args.keyword.erase(found);
    return value;
  };
  const size_t count = macro.parameters.size();
  Scope& scope = scopes_.current();
  std::vector<std::optional<Value>> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = i < args.positional.size() ? std::optional(args.positional[i])
                                           : take_keyword(macro.parameters[i].name);
  }
  if (macro.takes_caller) {
    scope.set("caller", take_keyword("caller").value_or(Value::undefined("No caller defined")));
  }
  if (macro.takes_kwargs) {
    auto rest = std::make_shared<Dict>();
    for (auto& [name, value] : args.keyword) rest->set(budget_, Value(name), std::move(value));
    scope.set("kwargs", std::shared_ptr<const Dict>(std::move(rest)));
  } else if (!args.keyword.empty()) {
    raise("macro '{}' takes no keyword argument '{}'", macro.name, args.keyword.front().first);
  }
  if (macro.takes_varargs) {
    const size_t taken = std::min(count, args.positional.size());
    scope.set("varargs", Value::tuple({args.positional.begin() + static_cast<ptrdiff_t>(taken),
                                       args.positional.end()}));
  } else if (args.positional.size() > count) {
    raise("macro '{}' takes not more than {} argument(s)", macro.name, count);
  }
  for (size_t i = 0; i < count; ++i) {
    const Parameter& parameter = macro.parameters[i];
    if (!values[i]) {
      values[i] = parameter.otherwise == nullptr
                      ? Value::undefined("parameter '" + parameter.name + "' was not provided")
                      : evaluator_.evaluate(*parameter.otherwise);
    }
    scope.set(parameter.name, std::move(*values[i]));
  }
}

}  // namespace lorax::jinja

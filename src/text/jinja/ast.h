// A parsed template: statements and expressions, immutable once made.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja/filters.h"
#include "text/jinja/operators.h"
#include "text/jinja/tests.h"
#include "text/jinja/value.h"

namespace lorax::jinja {

struct Expr;
struct Statement;
using ExprPtr = std::unique_ptr<const Expr>;
using Body = std::vector<Statement>;

// Statements that have a scope of their own.
struct ScopedBody {
  Body statements;
  // Names that the body assigns before it reads them, and that no scope around it knows: a variable
  // that the template was given under such a name is not seen here (scope_analysis.h).
  std::vector<std::string> hidden;
};

struct CallArgs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keyword;
  ExprPtr star;         // *values, or null
  ExprPtr double_star;  // **values, or null
};

struct Literal {
  Value value;
};
struct Name {
  std::string name;
};
struct ListDisplay {
  std::vector<ExprPtr> items;
  bool is_tuple = false;
};
struct DictDisplay {
  std::vector<std::pair<ExprPtr, ExprPtr>> items;
};
struct GetAttribute {
  ExprPtr object;
  std::string name;
};
struct GetItem {
  ExprPtr object;
  ExprPtr key;
};
struct GetSlice {
  ExprPtr object;
  ExprPtr start, stop, step;  // null for the ends
};
struct CallExpr {
  ExprPtr function;
  CallArgs args;
};
struct FilterExpr {
  ExprPtr value;  // null for the text of the block that is filtered
  Filter filter;
  CallArgs args;
};
struct TestExpr {
  ExprPtr value;
  Test test;
  CallArgs args;
};
struct Unary {
  enum class Operation : uint8_t { kNot, kNegate, kPlus } operation;
  ExprPtr operand;
};
struct Binary {
  Arithmetic operation;
  ExprPtr left, right;
};
struct Logical {
  bool is_and;
  ExprPtr left, right;
};
struct Concat {
  std::vector<ExprPtr> parts;
};
struct Comparison {
  enum class Operation : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };
  ExprPtr first;
  std::vector<std::pair<Operation, ExprPtr>> rest;
};
struct Conditional {
  ExprPtr condition, then, otherwise;  // `otherwise` may be null
};

struct Expr {
  int line;
  int depth;  // of expressions in each other
  std::variant<Literal, Name, ListDisplay, DictDisplay, GetAttribute, GetItem, GetSlice, CallExpr,
               FilterExpr, TestExpr, Unary, Binary, Logical, Concat, Comparison, Conditional>
      node;
};

// What a value is assigned to: a name, a namespace's attribute, or a tuple of targets.
struct Target {
  std::string name;
  std::string attribute;  // empty for a name
  std::vector<Target> parts;
  bool is_tuple = false;
};

struct Parameter {
  std::string name;
  ExprPtr otherwise;  // null if it has no default
};

struct MacroBody {
  std::string name;
  std::vector<Parameter> parameters;
  ScopedBody body;
  // Names that the body uses and that are no parameters.
  bool takes_varargs = false;
  bool takes_kwargs = false;
  bool takes_caller = false;
};

struct Data {
  std::string text;
};
struct Output {
  std::vector<ExprPtr> values;
};
struct If {
  std::vector<std::pair<ExprPtr, Body>> branches;  // if and elif
  Body otherwise;
};
struct For {
  Target target;
  ExprPtr items;
  ExprPtr condition;  // or null
  bool recursive = false;
  ScopedBody body;
  ScopedBody otherwise;
};
struct Set {
  Target target;
  ExprPtr value;
};
struct SetBlock {
  Target target;
  ExprPtr filter;  // or null
  ScopedBody body;
};
struct Macro {
  MacroBody macro;
};
struct CallBlock {
  MacroBody caller;
  ExprPtr call;
};
struct FilterBlock {
  ExprPtr filter;
  ScopedBody body;
};
struct With {
  std::vector<std::pair<Target, ExprPtr>> values;
  ScopedBody body;
};
// {% generation %}, which marks the assistant's text and changes nothing.
struct Generation {
  ScopedBody body;
};
struct LoopControl {
  bool is_break;
};

struct Statement {
  int line;
  std::variant<Data, Output, If, For, Set, SetBlock, Macro, CallBlock, FilterBlock, With,
               Generation, LoopControl>
      node;
};

}  // namespace lorax::jinja

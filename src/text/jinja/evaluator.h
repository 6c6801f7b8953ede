// The values of expressions.
#pragma once

#include <ctime>

#include "text/jinja/ast.h"
#include "text/jinja/scope.h"

namespace lorax::jinja {

// Of one rendering.
class Evaluator {
 public:
  Evaluator(Budget& budget, ScopeStack& scopes, std::time_t now)
      : budget_(budget), scopes_(scopes), now_(now) {}

  // Throws TemplateError.
  Value evaluate(const Expr& expr);
  // As evaluate, of the filters of a block, which apply to `text`.
  Value apply_filters(const Expr& filters, std::string text);
  // As evaluate, of a call with one more keyword argument.
  Value call_with(const Expr& call, std::string keyword, Value value);

  // The line of the expression that was evaluated last.
  int line() const { return line_; }
  void set_line(int line) { line_ = line; }

 private:
  Value evaluate(const Literal& node) { return node.value; }
  Value evaluate(const Name& node);
  Value evaluate(const ListDisplay& node);
  Value evaluate(const DictDisplay& node);
  Value evaluate(const GetAttribute& node);
  Value evaluate(const GetItem& node);
  Value evaluate(const GetSlice& node);
  Value evaluate(const CallExpr& node);
  Value evaluate(const FilterExpr& node);
  Value evaluate(const TestExpr& node);
  Value evaluate(const Unary& node);
  Value evaluate(const Binary& node);
  Value evaluate(const Logical& node);
  Value evaluate(const Concat& node);
  Value evaluate(const Comparison& node);
  Value evaluate(const Conditional& node);

  Args evaluate_args(const CallArgs& args);
  Value call(const Value& function, Args args);
  bool compare(Comparison::Operation operation, const Value& a, const Value& b);

  Budget& budget_;
  ScopeStack& scopes_;
  std::time_t now_;
  const Value* filtered_ = nullptr;  // what a block's filters apply to
  int line_ = 0;
};

}  // namespace lorax::jinja

#include "text/jinja/evaluator.h"

#include "text/jinja/attributes.h"
#include "text/jinja/globals.h"
#include "text/jinja/loop.h"
#include "text/jinja/python_text.h"

namespace lorax::jinja {

Value Evaluator::evaluate(const Expr& expr) {
  const Budget::Level level(budget_);
  line_ = expr.line;
  return std::visit([this](const auto& node) { return evaluate(node); }, expr.node);
}

Value Evaluator::apply_filters(const Expr& filters, std::string text) {
  const Value value(std::move(text));
  const Value* outer = std::exchange(filtered_, &value);
  Value result = evaluate(filters);
  filtered_ = outer;
  return result;
}

Value Evaluator::evaluate(const Name& node) {
  if (const Value* found = scopes_.current().find(node.name)) return *found;
  if (const auto global = global_function(budget_, node.name, now_)) return *global;
  return Value::undefined("'" + node.name + "' is undefined");
}

Value Evaluator::evaluate(const ListDisplay& node) {
  budget_.allocate(node.items.size(), sizeof(Value));
  std::vector<Value> items;
  for (const ExprPtr& item : node.items) items.push_back(evaluate(*item));
  return Value::list(std::move(items),
                     node.is_tuple ? Sequence::Type::kTuple : Sequence::Type::kList);
}

Value Evaluator::evaluate(const DictDisplay& node) {
  budget_.allocate(node.items.size(), sizeof(Dict::Entry));
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, value] : node.items) {
    Value evaluated = evaluate(*key);
    dict->set(budget_, std::move(evaluated), evaluate(*value));
  }
  return std::shared_ptr<const Dict>(std::move(dict));
}

Value Evaluator::evaluate(const GetAttribute& node) {
  const Value object = evaluate(*node.object);
  return get_attribute(budget_, object, node.name);
}

Value Evaluator::evaluate(const GetItem& node) {
  const Value object = evaluate(*node.object);
  return get_item(budget_, object, evaluate(*node.key));
}

Value Evaluator::evaluate(const GetSlice& node) {
  const auto bound = [this](const ExprPtr& expr) {
    return expr == nullptr ? Value(None()) : evaluate(*expr);
  };
  const Value object = evaluate(*node.object);
  const Value start = bound(node.start);
  const Value stop = bound(node.stop);
  return slice(budget_, object, start, stop, bound(node.step));
}

Args Evaluator::evaluate_args(const CallArgs& args) {
  Args result;
  for (const ExprPtr& value : args.positional) result.positional.push_back(evaluate(*value));
  for (const auto& keyword : args.keyword) {
    result.keyword.emplace_back(keyword.first, evaluate(*keyword.second));
  }
  if (args.star != nullptr) {
    for (Value& value : to_vector(budget_, evaluate(*args.star))) {
      result.positional.push_back(std::move(value));
    }
  }
  if (args.double_star != nullptr) {
    const Value values = evaluate(*args.double_star);
    if (values.dict() == nullptr) raise("argument after ** must be a mapping");
    for (const Dict::Entry& entry : values.dict()->entries()) {
      if (entry.first.text() == nullptr) raise("keywords must be strings");
      result.keyword.emplace_back(entry.first.text()->bytes, entry.second);
    }
  }
  return result;
}

Value Evaluator::call(const Value& function, Args args) {
  if (function.is_undefined()) raise("{}", function.undefined_message());
  if (const Function* callee = function.function()) return callee->call(std::move(args));
  if (const Loop* loop = function.loop()) {
    if (args.positional.size() != 1 || !args.keyword.empty()) raise("loop() takes one argument");
    return loop->recurse(std::move(args.positional[0]));
  }
  raise("'{}' object is not callable", function.type_name());
}

Value Evaluator::evaluate(const CallExpr& node) {
  const int line = line_;
  const Value function = evaluate(*node.function);
  Args args = evaluate_args(node.args);
  line_ = line;
  return call(function, std::move(args));
}

Value Evaluator::call_with(const Expr& call_expr, std::string keyword, Value value) {
  const Budget::Level level(budget_);
  line_ = call_expr.line;
  const CallExpr& node = std::get<CallExpr>(call_expr.node);
  const Value function = evaluate(*node.function);
  Args args = evaluate_args(node.args);
  args.keyword.emplace_back(std::move(keyword), std::move(value));
  return call(function, std::move(args));
}

Value Evaluator::evaluate(const FilterExpr& node) {
  const int line = line_;
  const Value value = node.value == nullptr ? *filtered_ : evaluate(*node.value);
  Args args = evaluate_args(node.args);
  line_ = line;
  return node.filter(budget_, value, std::move(args));
}

Value Evaluator::evaluate(const TestExpr& node) {
  const Value value = evaluate(*node.value);
  return node.test(budget_, value, evaluate_args(node.args));
}

Value Evaluator::evaluate(const Unary& node) {
  const Value operand = evaluate(*node.operand);
  switch (node.operation) {
    case Unary::Operation::kNot:
      return !operand.truth();
    case Unary::Operation::kNegate:
      return negate(operand);
    case Unary::Operation::kPlus:
      break;
  }
  return plus(operand);
}

Value Evaluator::evaluate(const Binary& node) {
  const Value left = evaluate(*node.left);
  return calculate(budget_, node.operation, left, evaluate(*node.right));
}

Value Evaluator::evaluate(const Logical& node) {
  Value left = evaluate(*node.left);
  return left.truth() == node.is_and ? evaluate(*node.right) : left;
}

Value Evaluator::evaluate(const Concat& node) {
  std::string text;
  for (const ExprPtr& part : node.parts) text += to_string(budget_, evaluate(*part));
  return text;
}

bool Evaluator::compare(Comparison::Operation operation, const Value& a, const Value& b) {
  switch (operation) {
    case Comparison::Operation::kEq:
      return equal(budget_, a, b);
    case Comparison::Operation::kNe:
      return !equal(budget_, a, b);
    case Comparison::Operation::kLt:
      return less(budget_, a, b);
    case Comparison::Operation::kLe:
      return less_or_equal(budget_, a, b);
    case Comparison::Operation::kGt:
      return less(budget_, b, a);
    case Comparison::Operation::kGe:
      return less_or_equal(budget_, b, a);
    case Comparison::Operation::kIn:
      return contains(budget_, b, a);
    case Comparison::Operation::kNotIn:
      break;
  }
  return !contains(budget_, b, a);
}

Value Evaluator::evaluate(const Comparison& node) {
  Value left = evaluate(*node.first);
  for (const auto& [operation, operand] : node.rest) {
    Value right = evaluate(*operand);
    if (!compare(operation, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Evaluator::evaluate(const Conditional& node) {
  if (evaluate(*node.condition).truth()) return evaluate(*node.then);
  if (node.otherwise != nullptr) return evaluate(*node.otherwise);
  return Value::undefined(
      "the inline if-expression evaluated to false and no else section was defined.");
}

}  // namespace lorax::jinja

#include "text/jinja/expression_parser.h"

#include <algorithm>
#include <array>

#include "base/quote_token.h"

namespace lorax::jinja {
namespace {

int depth_of(const ExprPtr& expr) { return expr == nullptr ? 0 : expr->depth; }

int depth_of(const std::vector<ExprPtr>& exprs) {
  int depth = 0;
  for (const ExprPtr& expr : exprs) depth = std::max(depth, expr->depth);
  return depth;
}

int depth_of(const CallArgs& args) {
  int depth =
      std::max({depth_of(args.positional), depth_of(args.star), depth_of(args.double_star)});
  for (const auto& keyword : args.keyword) depth = std::max(depth, keyword.second->depth);
  return depth;
}

using Symbol = std::pair<std::string_view, Arithmetic>;
constexpr std::array<Symbol, 2> kSums = {{{"+", Arithmetic::kAdd}, {"-", Arithmetic::kSubtract}}};
constexpr std::array<Symbol, 4> kProducts = {{{"*", Arithmetic::kMultiply},
                                              {"/", Arithmetic::kDivide},
                                              {"//", Arithmetic::kFloorDivide},
                                              {"%", Arithmetic::kModulo}}};

// The operation of the token, or null.
template <typename Symbols>
const Arithmetic* find_operation(const Symbols& symbols, const Token& token) {
  if (token.type != Token::Type::kOperator) return nullptr;
  const auto found = std::ranges::find(symbols, std::string_view(token.text), &Symbol::first);
  return found == symbols.end() ? nullptr : &found->second;
}

}  // namespace

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (parser_.depth_ >= kMaxDepth) {
    parser_.tokens_.fail_at(parser_.tokens_.current().line, "nests deeper than {} levels",
                            kMaxDepth);
  }
  ++parser_.depth_;
}

template <typename Node>
ExprPtr ExpressionParser::make(int line, Node node, int depth) {
  if (depth >= kMaxDepth)
    tokens_.fail_at(line, "an expression nests deeper than {} levels", kMaxDepth);
  return std::make_unique<const Expr>(Expr{line, depth + 1, std::move(node)});
}

bool ExpressionParser::at_tuple_end() const {
  return tokens_.at(Token::Type::kVariableEnd) || tokens_.at(Token::Type::kBlockEnd) ||
         tokens_.at_operator(")");
}

ExprPtr ExpressionParser::parse_tuple(bool with_conditional) {
  return parse_tuple_items(with_conditional, false);
}

ExprPtr ExpressionParser::parse_tuple_items(bool with_conditional, bool in_parentheses) {
  const int line = tokens_.current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  for (;;) {
    if (!items.empty()) tokens_.expect_operator(",");
    if (at_tuple_end()) break;
    items.push_back(with_conditional ? parse_conditional() : parse_or());
    if (!tokens_.at_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items.front());
  if (!is_tuple && !in_parentheses) tokens_.fail_unexpected("an expression");
  const int depth = depth_of(items);
  return make(line, ListDisplay{std::move(items), true}, depth);
}

ExprPtr ExpressionParser::parse_conditional() {
  const Level level(*this);
  const int line = tokens_.current().line;
  ExprPtr value = parse_or();
  while (tokens_.take_name("if")) {
    ExprPtr condition = parse_or();
    ExprPtr otherwise = tokens_.take_name("else") ? parse_conditional() : nullptr;
    const int depth = std::max({depth_of(value), depth_of(condition), depth_of(otherwise)});
    value = make(line, Conditional{std::move(condition), std::move(value), std::move(otherwise)},
                 depth);
  }
  return value;
}

ExprPtr ExpressionParser::parse_or() {
  ExprPtr left = parse_and();
  while (tokens_.at_name("or")) {
    const int line = tokens_.take().line;
    ExprPtr right = parse_and();
    const int depth = std::max(depth_of(left), depth_of(right));
    left = make(line, Logical{false, std::move(left), std::move(right)}, depth);
  }
  return left;
}

ExprPtr ExpressionParser::parse_and() {
  ExprPtr left = parse_not();
  while (tokens_.at_name("and")) {
    const int line = tokens_.take().line;
    ExprPtr right = parse_not();
    const int depth = std::max(depth_of(left), depth_of(right));
    left = make(line, Logical{true, std::move(left), std::move(right)}, depth);
  }
  return left;
}

ExprPtr ExpressionParser::parse_not() {
  if (!tokens_.at_name("not")) return parse_comparison();
  const Level level(*this);
  const int line = tokens_.take().line;
  ExprPtr operand = parse_not();
  const int depth = depth_of(operand);
  return make(line, Unary{Unary::Operation::kNot, std::move(operand)}, depth);
}

ExprPtr ExpressionParser::parse_comparison() {
  using Operation = Comparison::Operation;
  constexpr std::array<std::pair<std::string_view, Operation>, 6> kOperators = {
      {{"==", Operation::kEq},
       {"!=", Operation::kNe},
       {"<", Operation::kLt},
       {"<=", Operation::kLe},
       {">", Operation::kGt},
       {">=", Operation::kGe}}};
  const int line = tokens_.current().line;
  ExprPtr first = parse_sum();
  int depth = depth_of(first);
  std::vector<std::pair<Operation, ExprPtr>> rest;
  for (;;) {
    Operation operation;
    const auto found = std::ranges::find_if(
        kOperators, [this](const auto& entry) { return tokens_.at_operator(entry.first); });
    if (found != kOperators.end()) {
      operation = found->second;
    } else if (tokens_.at_name("in")) {
      operation = Operation::kIn;
    } else if (tokens_.at_name("not") &&
               TokenStream::is(tokens_.ahead(), Token::Type::kName, "in")) {
      tokens_.take();
      operation = Operation::kNotIn;
    } else {
      break;
    }
    tokens_.take();
    rest.emplace_back(operation, parse_sum());
    depth = std::max(depth, depth_of(rest.back().second));
  }
  if (rest.empty()) return first;
  return make(line, Comparison{std::move(first), std::move(rest)}, depth);
}

ExprPtr ExpressionParser::parse_sum() {
  ExprPtr left = parse_concat();
  while (const Arithmetic* operation = find_operation(kSums, tokens_.current())) {
    const int line = tokens_.take().line;
    ExprPtr right = parse_concat();
    const int depth = std::max(depth_of(left), depth_of(right));
    left = make(line, Binary{*operation, std::move(left), std::move(right)}, depth);
  }
  return left;
}

ExprPtr ExpressionParser::parse_concat() {
  const int line = tokens_.current().line;
  std::vector<ExprPtr> parts;
  parts.push_back(parse_product());
  while (tokens_.take_operator("~")) parts.push_back(parse_product());
  if (parts.size() == 1) return std::move(parts.front());
  const int depth = depth_of(parts);
  return make(line, Concat{std::move(parts)}, depth);
}

ExprPtr ExpressionParser::parse_product() {
  ExprPtr left = parse_power();
  while (const Arithmetic* operation = find_operation(kProducts, tokens_.current())) {
    const int line = tokens_.take().line;
    ExprPtr right = parse_power();
    const int depth = std::max(depth_of(left), depth_of(right));
    left = make(line, Binary{*operation, std::move(left), std::move(right)}, depth);
  }
  return left;
}

ExprPtr ExpressionParser::parse_power() {
  ExprPtr left = parse_unary();
  while (tokens_.at_operator("**")) {
    const int line = tokens_.take().line;
    ExprPtr right = parse_unary();
    const int depth = std::max(depth_of(left), depth_of(right));
    left = make(line, Binary{Arithmetic::kPower, std::move(left), std::move(right)}, depth);
  }
  return left;
}

ExprPtr ExpressionParser::parse_unary(bool with_filters) {
  ExprPtr value;
  if (tokens_.at_operator("-") || tokens_.at_operator("+")) {
    const Level level(*this);
    const Token& sign = tokens_.take();
    const auto operation = sign.text == "-" ? Unary::Operation::kNegate : Unary::Operation::kPlus;
    const int line = sign.line;
    ExprPtr operand = parse_unary(false);
    const int depth = depth_of(operand);
    value = make(line, Unary{operation, std::move(operand)}, depth);
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExprPtr ExpressionParser::parse_primary() {
  const Token& token = tokens_.current();
  const int line = token.line;
  if (token.type == Token::Type::kName) return parse_name();
  if (token.type == Token::Type::kNumber) return make(line, Literal{tokens_.take().number}, 0);
  if (token.type == Token::Type::kString) {
    std::string text;
    while (tokens_.at(Token::Type::kString)) text += tokens_.take().text;
    return make(line, Literal{std::move(text)}, 0);
  }
  if (tokens_.take_operator("(")) {
    ExprPtr inside = parse_tuple_items(true, true);
    tokens_.expect_operator(")");
    return inside;
  }
  if (tokens_.at_operator("[")) return parse_list();
  if (tokens_.at_operator("{")) return parse_dict();
  tokens_.fail_unexpected("an expression");
}

ExprPtr ExpressionParser::parse_name() {
  const Token& token = tokens_.take();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return make(token.line, Literal{true}, 0);
  if (name == "false" || name == "False") return make(token.line, Literal{false}, 0);
  if (name == "none" || name == "None") return make(token.line, Literal{None()}, 0);
  names_.read.insert(name);
  return make(token.line, Name{name}, 0);
}

ExprPtr ExpressionParser::parse_list() {
  const int line = tokens_.take().line;
  std::vector<ExprPtr> items;
  while (!tokens_.at_operator("]")) {
    if (!items.empty()) tokens_.expect_operator(",");
    if (tokens_.at_operator("]")) break;
    items.push_back(parse_conditional());
  }
  tokens_.expect_operator("]");
  const int depth = depth_of(items);
  return make(line, ListDisplay{std::move(items), false}, depth);
}

ExprPtr ExpressionParser::parse_dict() {
  const int line = tokens_.take().line;
  std::vector<std::pair<ExprPtr, ExprPtr>> items;
  int depth = 0;
  while (!tokens_.at_operator("}")) {
    if (!items.empty()) tokens_.expect_operator(",");
    if (tokens_.at_operator("}")) break;
    ExprPtr key = parse_conditional();
    tokens_.expect_operator(":");
    ExprPtr value = parse_conditional();
    depth = std::max({depth, depth_of(key), depth_of(value)});
    items.emplace_back(std::move(key), std::move(value));
  }
  tokens_.expect_operator("}");
  return make(line, DictDisplay{std::move(items)}, depth);
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr value) {
  for (;;) {
    if (tokens_.at_operator(".")) {
      value = parse_dot(std::move(value));
    } else if (tokens_.at_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (tokens_.at_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExpressionParser::parse_filters_and_tests(ExprPtr value) {
  for (;;) {
    if (tokens_.at_operator("|")) {
      tokens_.take();
      value = parse_filter(std::move(value));
    } else if (tokens_.at_name("is")) {
      value = parse_test(std::move(value));
    } else if (tokens_.at_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExpressionParser::parse_dot(ExprPtr object) {
  const int line = tokens_.take().line;
  const int depth = depth_of(object);
  if (tokens_.at(Token::Type::kName)) {
    return make(line, GetAttribute{std::move(object), tokens_.take().text}, depth);
  }
  if (!tokens_.at(Token::Type::kNumber) || !tokens_.current().number.is_integer()) {
    tokens_.fail_unexpected("a name or number");
  }
  ExprPtr key = make(line, Literal{tokens_.take().number}, 0);
  return make(line, GetItem{std::move(object), std::move(key)}, depth);
}

ExprPtr ExpressionParser::parse_subscript(ExprPtr object) {
  const int line = tokens_.take().line;
  const Level level(*this);
  GetSlice slice;
  ExprPtr key;
  bool is_slice = tokens_.at_operator(":");
  if (!is_slice) {
    key = parse_conditional();
    is_slice = tokens_.at_operator(":");
    if (is_slice) slice.start = std::move(key);
  }
  if (tokens_.at_operator(",")) {
    tokens_.fail_at(line, "a subscript of several parts is not supported");
  }
  if (!is_slice) {
    tokens_.expect_operator("]");
    const int depth = std::max(depth_of(object), depth_of(key));
    return make(line, GetItem{std::move(object), std::move(key)}, depth);
  }
  tokens_.expect_operator(":");
  if (!tokens_.at_operator(":") && !tokens_.at_operator("]")) slice.stop = parse_conditional();
  if (tokens_.take_operator(":") && !tokens_.at_operator("]")) slice.step = parse_conditional();
  tokens_.expect_operator("]");
  const int depth = std::max(
      {depth_of(object), depth_of(slice.start), depth_of(slice.stop), depth_of(slice.step)});
  slice.object = std::move(object);
  return make(line, std::move(slice), depth);
}

CallArgs ExpressionParser::parse_call_args() {
  const int line = tokens_.current().line;
  const Level level(*this);
  tokens_.expect_operator("(");
  CallArgs args;
  const auto ensure = [&](bool holds) {
    if (!holds) tokens_.fail_at(line, "the arguments of a call are in the wrong order");
  };
  bool first = true;
  while (!tokens_.at_operator(")")) {
    if (!first) tokens_.expect_operator(",");
    if (tokens_.at_operator(")")) break;
    first = false;
    if (tokens_.take_operator("*")) {
      ensure(args.star == nullptr && args.double_star == nullptr);
      args.star = parse_conditional();
    } else if (tokens_.take_operator("**")) {
      ensure(args.double_star == nullptr);
      args.double_star = parse_conditional();
    } else if (tokens_.at(Token::Type::kName) &&
               TokenStream::is(tokens_.ahead(), Token::Type::kOperator, "=")) {
      ensure(args.double_star == nullptr);
      std::string name = tokens_.take().text;
      tokens_.take();
      names_.attributes.insert(name);
      for (const auto& keyword : args.keyword) {
        if (keyword.first == name) tokens_.fail_at(line, "the argument {} is given twice", name);
      }
      args.keyword.emplace_back(std::move(name), parse_conditional());
    } else {
      ensure(args.star == nullptr && args.double_star == nullptr && args.keyword.empty());
      args.positional.push_back(parse_conditional());
    }
  }
  tokens_.expect_operator(")");
  return args;
}

ExprPtr ExpressionParser::parse_call(ExprPtr function) {
  const int line = tokens_.current().line;
  if (const Name* name = std::get_if<Name>(&function->node)) {
    names_.called.push_back({name->name, line});
  } else if (const auto* method = std::get_if<GetAttribute>(&function->node)) {
    names_.called_methods.push_back({method->name, line});
  }
  CallArgs args = parse_call_args();
  const int depth = std::max(depth_of(function), depth_of(args));
  return make(line, CallExpr{std::move(function), std::move(args)}, depth);
}

std::string ExpressionParser::parse_dotted_name() {
  std::string name = tokens_.expect_any_name();
  while (tokens_.take_operator(".")) {
    name += '.';
    name += tokens_.expect_any_name();
  }
  return name;
}

void ExpressionParser::check_names_given_to(std::string_view filter, const CallArgs& args,
                                            int line) const {
  const bool by_attribute = filter == "selectattr" || filter == "rejectattr";
  const bool takes_test = by_attribute || filter == "select" || filter == "reject";
  const size_t at = by_attribute ? 1 : 0;
  if ((!takes_test && filter != "map") || args.positional.size() <= at) return;
  const auto* literal = std::get_if<Literal>(&args.positional[at]->node);
  const Text* name = literal == nullptr ? nullptr : literal->value.text();
  if (name == nullptr) return;
  if (takes_test && find_test(name->bytes) == nullptr) {
    tokens_.fail_at(line, "the test {} is not known", quote_token(name->bytes));
  }
  if (!takes_test && find_filter(name->bytes) == nullptr) {
    tokens_.fail_at(line, "the filter {} is not known", quote_token(name->bytes));
  }
}

ExprPtr ExpressionParser::parse_filter(ExprPtr value) {
  const int line = tokens_.current().line;
  const std::string name = parse_dotted_name();
  const Filter filter = find_filter(name);
  if (filter == nullptr) tokens_.fail_at(line, "the filter {} is not known", quote_token(name));
  CallArgs args;
  if (tokens_.at_operator("(")) args = parse_call_args();
  check_names_given_to(name, args, line);
  const int depth = std::max(depth_of(value), depth_of(args));
  return make(line, FilterExpr{std::move(value), filter, std::move(args)}, depth);
}

ExprPtr ExpressionParser::parse_block_filters(bool at_name) {
  ExprPtr value;
  if (at_name) value = parse_filter(nullptr);
  while (tokens_.take_operator("|")) value = parse_filter(std::move(value));
  return value;
}

ExprPtr ExpressionParser::parse_test(ExprPtr value) {
  const int line = tokens_.take().line;
  const bool negated = tokens_.take_name("not");
  const std::string name = parse_dotted_name();
  const Test test = find_test(name);
  if (test == nullptr) tokens_.fail_at(line, "the test {} is not known", quote_token(name));
  CallArgs args;
  const bool begins_value = tokens_.at(Token::Type::kName) || tokens_.at(Token::Type::kString) ||
                            tokens_.at(Token::Type::kNumber) || tokens_.at_operator("[") ||
                            tokens_.at_operator("{");
  const bool continues = tokens_.at_name("else") || tokens_.at_name("or") || tokens_.at_name("and");
  if (tokens_.at_operator("(")) {
    args = parse_call_args();
  } else if (begins_value && !continues) {
    if (tokens_.at_name("is")) tokens_.fail_at(line, "tests cannot be chained with is");
    args.positional.push_back(parse_postfix(parse_primary()));
  }
  const int depth = std::max(depth_of(value), depth_of(args));
  ExprPtr result = make(line, TestExpr{std::move(value), test, std::move(args)}, depth);
  if (!negated) return result;
  return make(line, Unary{Unary::Operation::kNot, std::move(result)}, depth + 1);
}

}  // namespace lorax::jinja

// Tokens to expressions, with Jinja's precedences.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/names.h"
#include "text/jinja/token_stream.h"

namespace lorax::jinja {

// All throw Error for what is no expression, and for filters and tests that do not exist.
class ExpressionParser {
 public:
  // Expressions and statements in each other.
  static constexpr int kMaxDepth = 200;

  ExpressionParser(TokenStream& tokens, TemplateNames& names) : tokens_(tokens), names_(names) {}

  ExprPtr parse_expression() { return parse_conditional(); }
  // One without an inline if, as behind `for x in`.
  ExprPtr parse_unconditional() { return parse_or(); }
  // An expression, or several with commas between them, which make a tuple.
  ExprPtr parse_tuple(bool with_conditional = true);
  // The filters of a block; `value` is null. Begins at the name or at '|'.
  ExprPtr parse_block_filters(bool at_name);

  // Counts a level of nesting for as long as it lives.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { --parser_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  template <typename Node>
  ExprPtr make(int line, Node node, int depth);

  bool at_tuple_end() const;
  ExprPtr parse_tuple_items(bool with_conditional, bool in_parentheses);
  ExprPtr parse_conditional();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_comparison();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filters = true);
  ExprPtr parse_primary();
  ExprPtr parse_name();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr value);
  ExprPtr parse_filters_and_tests(ExprPtr value);
  ExprPtr parse_dot(ExprPtr object);
  ExprPtr parse_subscript(ExprPtr object);
  ExprPtr parse_call(ExprPtr function);
  CallArgs parse_call_args();
  ExprPtr parse_filter(ExprPtr value);
  ExprPtr parse_test(ExprPtr value);
  // The filter or test that map, select and the like are told to apply must exist.
  void check_names_given_to(std::string_view filter, const CallArgs& args, int line) const;
  std::string parse_dotted_name();

  TokenStream& tokens_;
  TemplateNames& names_;
  int depth_ = 0;
};

}  // namespace lorax::jinja

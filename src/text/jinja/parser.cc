#include "text/jinja/parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <utility>

#include "base/quote_token.h"
#include "text/jinja/attributes.h"
#include "text/jinja/expression_parser.h"
#include "text/jinja/globals.h"
#include "text/jinja/scope_analysis.h"

namespace lorax::jinja {
namespace {

using Type = Token::Type;

class Parser {
 public:
  Parser(std::string_view source, std::string_view origin)
      : tokens_(tokenize(source, origin), origin), expressions_(tokens_, template_.names) {}

  Template run() {
    template_.body.statements = parse_body({});
    check_names();
    analyze_scopes(template_.body);
    return std::move(template_);
  }

 private:
  TemplateNames& names() { return template_.names; }

  // Statements up to a tag of one of these names, which is left to the caller, or to the end of the
  // template if there are none.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const ExpressionParser::Level level(expressions_);
    Body body;
    for (;;) {
      const int line = tokens_.current().line;
      if (tokens_.at(Type::kEnd)) {
        if (ends.size() > 0) fail_open(line, ends);
        return body;
      }
      if (tokens_.at(Type::kData)) {
        body.push_back({line, Data{tokens_.take().text}});
        continue;
      }
      if (tokens_.at(Type::kVariableBegin)) {
        tokens_.take();
        Output output;
        output.values.push_back(expressions_.parse_tuple());
        tokens_.expect(Type::kVariableEnd);
        body.push_back({line, std::move(output)});
        continue;
      }
      tokens_.expect(Type::kBlockBegin);
      const bool ended =
          std::ranges::any_of(ends, [this](std::string_view end) { return tokens_.at_name(end); });
      if (ended) return body;
      body.push_back(parse_statement());
      tokens_.expect(Type::kBlockEnd);
    }
  }

  [[noreturn]] void fail_open(int line, std::initializer_list<std::string_view> ends) const {
    tokens_.fail_at(line, "the template ends before {}", quote_token(*(ends.end() - 1)));
  }

  // The rest of an opening tag, then statements up to the tag `end`, which is taken too.
  Body parse_block(std::string_view end) {
    Body body = parse_block_until({end});
    tokens_.take();
    return body;
  }

  Body parse_block_until(std::initializer_list<std::string_view> ends) {
    tokens_.take_operator(":");
    tokens_.expect(Type::kBlockEnd);
    return parse_body(ends);
  }

  Statement parse_statement() {
    const int line = tokens_.current().line;
    const std::string tag = tokens_.expect_any_name();
    if (tag == "if") return {line, parse_if()};
    if (tag == "for") return {line, parse_for()};
    if (tag == "set") return parse_set(line);
    if (tag == "macro") return {line, parse_macro()};
    if (tag == "call") return {line, parse_call_block()};
    if (tag == "filter") return {line, parse_filter_block()};
    if (tag == "with") return {line, parse_with()};
    if (tag == "print") return {line, parse_print()};
    if (tag == "generation") return {line, parse_generation()};
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) tokens_.fail_at(line, "{} stands outside of a loop", quote_token(tag));
      return {line, LoopControl{tag == "break"}};
    }
    tokens_.fail_at(line, "the tag {} is not known or stands in the wrong place", quote_token(tag));
  }

  Target parse_target_part(bool with_attribute) {
    if (tokens_.take_operator("(")) {
      Target target = parse_target(with_attribute);
      tokens_.expect_operator(")");
      return target;
    }
    const int line = tokens_.current().line;
    Target target;
    target.name = tokens_.expect_any_name();
    constexpr std::array<std::string_view, 6> kConstants = {"true",  "True", "false",
                                                            "False", "none", "None"};
    if (std::ranges::find(kConstants, target.name) != kConstants.end()) {
      tokens_.fail_at(line, "cannot assign to {}", quote_token(target.name));
    }
    if (with_attribute && tokens_.take_operator(".")) {
      target.attribute = tokens_.expect_any_name();
      names().read.insert(target.name);
      names().attributes.insert(target.attribute);
    } else {
      names().assigned.insert(target.name);
    }
    return target;
  }

  Target parse_target(bool with_attribute) {
    const ExpressionParser::Level level(expressions_);
    Target first = parse_target_part(with_attribute);
    if (!tokens_.at_operator(",")) return first;
    Target tuple;
    tuple.is_tuple = true;
    tuple.parts.push_back(std::move(first));
    while (tokens_.take_operator(",")) {
      if (!tokens_.at(Type::kName) && !tokens_.at_operator("(")) break;
      if (tokens_.at_name("in")) break;
      tuple.parts.push_back(parse_target_part(with_attribute));
    }
    return tuple;
  }

  If parse_if() {
    If node;
    for (;;) {
      ExprPtr condition = expressions_.parse_tuple(false);
      node.branches.emplace_back(std::move(condition),
                                 parse_block_until({"elif", "else", "endif"}));
      if (!tokens_.at_name("elif")) break;
      tokens_.take();
    }
    if (tokens_.take_name("else")) {
      node.otherwise = parse_block("endif");
    } else {
      tokens_.take();
    }
    return node;
  }

  For parse_for() {
    For node;
    const int line = tokens_.current().line;
    node.target = parse_target(false);
    if (has_name(node.target, "loop")) {
      tokens_.fail_at(line, "cannot assign to the special variable \"loop\"");
    }
    tokens_.expect_name("in");
    node.items = expressions_.parse_tuple(false);
    if (tokens_.take_name("if")) node.condition = expressions_.parse_expression();
    node.recursive = tokens_.take_name("recursive");
    ++loops_;
    node.body.statements = parse_block_until({"else", "endfor"});
    --loops_;
    if (tokens_.take_name("else")) {
      node.otherwise.statements = parse_block("endfor");
    } else {
      tokens_.take();
    }
    return node;
  }

  static bool has_name(const Target& target, std::string_view name) {
    return target.name == name || std::ranges::any_of(target.parts, [&](const Target& part) {
             return has_name(part, name);
           });
  }

  Statement parse_set(int line) {
    Target target = parse_target(true);
    if (tokens_.take_operator("=")) {
      return {line, Set{std::move(target), expressions_.parse_tuple()}};
    }
    SetBlock node;
    node.target = std::move(target);
    node.filter = expressions_.parse_block_filters(false);
    node.body.statements = parse_block("endset");
    return {line, std::move(node)};
  }

  std::vector<Parameter> parse_parameters() {
    std::vector<Parameter> parameters;
    tokens_.expect_operator("(");
    while (!tokens_.at_operator(")")) {
      if (!parameters.empty()) tokens_.expect_operator(",");
      const int line = tokens_.current().line;
      Parameter parameter;
      parameter.name = parse_target_part(false).name;
      if (tokens_.take_operator("=")) {
        parameter.otherwise = expressions_.parse_expression();
      } else if (!parameters.empty() && parameters.back().otherwise != nullptr) {
        tokens_.fail_at(line, "a parameter without default follows one with a default");
      }
      parameters.push_back(std::move(parameter));
    }
    tokens_.expect_operator(")");
    return parameters;
  }

  // Parameters, if any, are parsed; `parse_rest` takes what stands between them and the tag's end.
  template <typename ParseRest>
  MacroBody parse_macro_body(std::string name, std::string_view end, ParseRest parse_rest) {
    MacroBody macro;
    macro.name = std::move(name);
    if (tokens_.at_operator("(")) macro.parameters = parse_parameters();
    parse_rest();
    // A loop around a macro is not the macro's.
    const int loops = std::exchange(loops_, 0);
    auto outer = std::exchange(names().read, {});
    macro.body.statements = parse_block(end);
    loops_ = loops;
    const auto takes = [&](std::string_view special) {
      const bool is_parameter =
          std::ranges::find(macro.parameters, special, &Parameter::name) != macro.parameters.end();
      return names().read.contains(special) && !is_parameter;
    };
    macro.takes_varargs = takes("varargs");
    macro.takes_kwargs = takes("kwargs");
    macro.takes_caller = takes("caller");
    names().read.merge(outer);
    return macro;
  }

  Macro parse_macro() {
    std::string name = parse_target_part(false).name;
    if (!tokens_.at_operator("(")) tokens_.fail_unexpected("\"(\"");
    return {parse_macro_body(std::move(name), "endmacro", [] {})};
  }

  CallBlock parse_call_block() {
    CallBlock node;
    const int line = tokens_.current().line;
    node.caller = parse_macro_body("caller", "endcall", [&] {
      node.call = expressions_.parse_expression();
      if (!std::holds_alternative<CallExpr>(node.call->node)) {
        tokens_.fail_at(line, "the tag \"call\" needs a call");
      }
    });
    return node;
  }

  FilterBlock parse_filter_block() {
    FilterBlock node;
    node.filter = expressions_.parse_block_filters(true);
    node.body.statements = parse_block("endfilter");
    return node;
  }

  With parse_with() {
    With node;
    while (!tokens_.at(Type::kBlockEnd)) {
      if (!node.values.empty()) tokens_.expect_operator(",");
      Target target = parse_target(false);
      tokens_.expect_operator("=");
      node.values.emplace_back(std::move(target), expressions_.parse_expression());
    }
    node.body.statements = parse_block("endwith");
    return node;
  }

  Output parse_print() {
    Output node;
    while (!tokens_.at(Type::kBlockEnd)) {
      if (!node.values.empty()) tokens_.expect_operator(",");
      node.values.push_back(expressions_.parse_expression());
    }
    return node;
  }

  Generation parse_generation() {
    const int loops = std::exchange(loops_, 0);
    Generation node{{parse_block("endgeneration"), {}}};
    loops_ = loops;
    return node;
  }

  void check_names() {
    for (const CalledName& call : names().called) {
      const bool known = is_global_function(call.name) || names().assigned.contains(call.name) ||
                         call.name == "loop" || call.name == "caller";
      if (!known)
        tokens_.fail_at(call.line, "the function {} is not known", quote_token(call.name));
    }
    for (const CalledName& call : names().called_methods) {
      if (!is_method_name(call.name) && !names().attributes.contains(call.name)) {
        tokens_.fail_at(call.line, "the method {} is not known", quote_token(call.name));
      }
    }
  }

  Template template_;
  TokenStream tokens_;
  ExpressionParser expressions_;
  int loops_ = 0;  // around the current statement, in its macro
};

}  // namespace

Template parse_template(std::string_view source, std::string_view origin) {
  return Parser(source, origin).run();
}

}  // namespace lorax::jinja

// The tokens of a template as the parser reads them, with one token of look-ahead.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "text/jinja/lexer.h"

namespace lorax::jinja {

class TokenStream {
 public:
  // `origin` must outlive the stream.
  TokenStream(std::vector<Token> tokens, std::string_view origin)
      : tokens_(std::move(tokens)), origin_(origin) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  // The current token; the stream goes on to the next one. At the end it stays there.
  const Token& take();

  bool at(Token::Type type) const { return current().type == type; }
  bool at_operator(std::string_view text) const {
    return is(current(), Token::Type::kOperator, text);
  }
  bool at_name(std::string_view text) const { return is(current(), Token::Type::kName, text); }
  static bool is(const Token& token, Token::Type type, std::string_view text) {
    return token.type == type && token.text == text;
  }

  bool take_operator(std::string_view text);
  bool take_name(std::string_view text);
  // Throw Error where another token stands.
  void expect_operator(std::string_view text);
  void expect_name(std::string_view text);
  void expect(Token::Type type);
  std::string expect_any_name();

  // Throws Error with the origin and a line.
  template <typename... Args>
  [[noreturn]] void fail_at(int line, fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: line {}: {}", origin_, line, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void fail_unexpected(std::string_view wanted) const;

 private:
  std::vector<Token> tokens_;
  std::string_view origin_;
  size_t at_ = 0;
};

}  // namespace lorax::jinja

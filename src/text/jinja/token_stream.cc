#include "text/jinja/token_stream.h"

#include "base/quote_token.h"

namespace lorax::jinja {
namespace {

std::string describe(Token::Type type) {
  switch (type) {
    case Token::Type::kData:
      return "text";
    case Token::Type::kBlockBegin:
      return "'{%'";
    case Token::Type::kBlockEnd:
      return "'%}'";
    case Token::Type::kVariableBegin:
      return "'{{'";
    case Token::Type::kVariableEnd:
      return "'}}'";
    case Token::Type::kName:
      return "a name";
    case Token::Type::kString:
      return "a string";
    case Token::Type::kNumber:
      return "a number";
    case Token::Type::kOperator:
      return "an operator";
    case Token::Type::kEnd:
      break;
  }
  return "the template's end";
}

}  // namespace

const Token& TokenStream::take() {
  const Token& token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::take_operator(std::string_view text) {
  if (!at_operator(text)) return false;
  take();
  return true;
}

bool TokenStream::take_name(std::string_view text) {
  if (!at_name(text)) return false;
  take();
  return true;
}

void TokenStream::expect_operator(std::string_view text) {
  if (!take_operator(text)) fail_unexpected(quote_token(text));
}

void TokenStream::expect_name(std::string_view text) {
  if (!take_name(text)) fail_unexpected(quote_token(text));
}

void TokenStream::expect(Token::Type type) {
  if (!at(type)) fail_unexpected(describe(type));
  take();
}

std::string TokenStream::expect_any_name() {
  if (!at(Token::Type::kName)) fail_unexpected(describe(Token::Type::kName));
  return take().text;
}

void TokenStream::fail_unexpected(std::string_view wanted) const {
  const Token& token = current();
  const bool has_text = token.type == Token::Type::kName || token.type == Token::Type::kOperator ||
                        token.type == Token::Type::kNumber || token.type == Token::Type::kString;
  fail_at(token.line, "expected {}, found {}", wanted,
          has_text ? quote_token(token.text) : describe(token.type));
}

}  // namespace lorax::jinja

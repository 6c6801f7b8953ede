#include "text/chat_formatter.h"

#include <gtest/gtest.h>

#include <string>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>

#include "text/chat_template_files.h"

namespace lorax {
namespace {

namespace json = boost::json;

ChatInput conversation(const char* messages) {
  ChatInput input;
  input.messages = json::parse(messages).as_array();
  input.bos_token = "<bos>";
  return input;
}

class ChatFormatterTest : public ::testing::Test {
 protected:
  ChatTemplates gemma2_ = load_chat_templates("models/tiny-gemma2");
};

constexpr const char* kSystemAndUser =
    R"([{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}])";

TEST_F(ChatFormatterTest, FoldsTheSystemMessageWhereItIsRefused) {
  const ChatFormatter formatter(*gemma2_.choose(false), {});
  EXPECT_FALSE(formatter.takes_system());
  EXPECT_EQ(formatter.render(conversation(kSystemAndUser)),
            "<bos><start_of_turn>user\nBe brief. \n\nHi<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(formatter.render(conversation(R"([{"role": "user", "content": "Hi"}])")),
            "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n");
  EXPECT_EQ(formatter.render(conversation(R"([{"role": "system", "content": "A"},
      {"role": "system", "content": [{"type": "text", "text": "B"}]},
      {"role": "user", "content": [{"type": "text", "text": "C"}, {"type": "text", "text": "D"}]},
      {"role": "assistant", "content": "E"}, {"role": "user", "content": "F"}])")),
            "<bos><start_of_turn>user\nA\n\nB\n\nCD<end_of_turn>\n<start_of_turn>model\nE"
            "<end_of_turn>\n<start_of_turn>user\nF<end_of_turn>\n<start_of_turn>model\n");
}

TEST_F(ChatFormatterTest, KeepsTheRefusalIfTold) {
  const ChatFormatter formatter(*gemma2_.choose(false), {.fold_system = false});
  try {
    formatter.render(conversation(kSystemAndUser));
    FAIL() << "no error";
  } catch (const TemplateRaised& error) {
    EXPECT_STREQ(error.what(), "System role not supported");
  }
}

TEST_F(ChatFormatterTest, KeepsTheRefusalOfWhatCannotBeFolded) {
  const ChatFormatter formatter(*gemma2_.choose(false), {});
  EXPECT_THROW(formatter.render(conversation(R"([{"role": "system", "content": "A"}])")),
               TemplateRaised);
}

TEST_F(ChatFormatterTest, RefusesPartsThatAreNoText) {
  const ChatFormatter formatter(*gemma2_.choose(false), {});
  try {
    formatter.render(conversation(
        R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])"));
    FAIL() << "no error";
  } catch (const TemplateError& error) {
    EXPECT_STREQ(
        error.what(),
        "a content part of type \"image_url\": this model's chat template takes text only");
  }
}

// A template that tells text from other parts, and takes no system role: the parts stay parts.
TEST_F(ChatFormatterTest, FoldsTheSystemMessageIntoTypedParts) {
  const ChatTemplate typed = ChatTemplate::parse(
      "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
      "{% if m.content is string %}<{{ m.content }}>{% else %}"
      "{% for p in m.content %}{{ '<' ~ p.text ~ '>' if p.type == 'text' else '[img]' }}"
      "{% endfor %}{% endif %}{% endfor %}",
      "typed");
  const ChatFormatter formatter(typed, {});
  EXPECT_FALSE(formatter.takes_system());
  EXPECT_TRUE(formatter.takes_parts());
  EXPECT_EQ(formatter.render(conversation(R"([{"role": "system", "content": "S"},
      {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "A"}]},
      {"role": "user", "content": "B"}])")),
            "<S\n\n>[img]<A><B>");
  EXPECT_EQ(formatter.render(conversation(R"([
      {"role": "system", "content": [{"type": "text", "text": "S"}, {"type": "text", "text": "T"}]},
      {"role": "user", "content": "B"}])")),
            "<ST\n\nB>");
}

TEST_F(ChatFormatterTest, LeavesATemplateAloneThatTakesAll) {
  const ChatTemplate all = ChatTemplate::parse(
      "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
      "{% for p in m.content %}{{ p.text if p.type == 'text' else '<img>' }}{% endfor %}{% endif %}"
      "{% endfor %}",
      "all");
  const ChatFormatter formatter(all, {});
  EXPECT_TRUE(formatter.takes_system());
  EXPECT_TRUE(formatter.takes_parts());
  EXPECT_EQ(formatter.render(conversation(kSystemAndUser)), "[system]Be brief. [user]Hi");
  EXPECT_EQ(
      formatter.render(conversation(
          R"([{"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "image"}]}])")),
      "[user]A<img>");
}

}  // namespace
}  // namespace lorax

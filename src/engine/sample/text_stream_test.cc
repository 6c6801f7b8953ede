#include "engine/sample/text_stream.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/utf8.h"

namespace lorax {
namespace {

class TextStreamTest : public ::testing::Test {
 protected:
  int32_t id(const std::string& piece) const {
    const auto found = tokenizer_->find_piece(piece);
    EXPECT_TRUE(found.has_value()) << piece;
    return found.value_or(0);
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = load_tokenizer("models/tiny-gemma2");
};

TEST_F(TextStreamTest, DeltasTogetherAreTheText) {
  const std::vector<int32_t> ids =
      tokenizer_->encode("In the beginning \xF0\x9F\x98\x80 caf\xC3\xA9\n");
  TextStream stream(*tokenizer_, {});
  std::string text;
  for (int32_t token : ids) {
    const std::string delta = stream.push(token);
    EXPECT_TRUE(is_valid_utf8(delta));
    text += delta;
  }
  text += stream.finish();
  EXPECT_EQ(text, tokenizer_->decode(ids, true));
}

TEST_F(TextStreamTest, SpecialTokensAreLeftOut) {
  TextStream stream(*tokenizer_, {});
  EXPECT_EQ(stream.push(*tokenizer_->bos_id()), "");
  EXPECT_EQ(stream.push(*tokenizer_->eos_id()), "");
  EXPECT_EQ(spell_token(*tokenizer_, *tokenizer_->eos_id()), "<eos>");
}

TEST_F(TextStreamTest, AStopStringAcrossTokensIsInNoDelta) {
  const std::vector<int32_t> ids = tokenizer_->encode("one two three");
  ASSERT_GE(ids.size(), 3u);
  TextStream stream(*tokenizer_, {"e two t"});
  std::string text;
  for (int32_t token : ids) {
    text += stream.push(token);
    if (stream.stopped()) break;
  }
  ASSERT_TRUE(stream.stopped());
  EXPECT_EQ(stream.stop_sequence(), "e two t");
  EXPECT_EQ(text + stream.finish(), "on");
}

TEST_F(TextStreamTest, AStopStringCountsOnlyFromWhereItMayEndTheText) {
  const std::vector<int32_t> ids = tokenizer_->encode("one two one two three");
  for (size_t least = 0; least <= ids.size(); ++least) {
    TextStream stream(*tokenizer_, {"two"});
    std::string text;
    size_t count = 0;
    for (; count < ids.size() && !stream.stopped(); ++count) {
      text += stream.push(ids[count], /*may_stop=*/count >= least);
    }
    text += stream.finish();
    // The texts of the tokens before `least` end nothing.
    const std::string front = tokenizer_->decode(std::span(ids).first(least), true);
    const std::string whole = "one two one two three";
    size_t stop = whole.find("two");
    while (stop != std::string::npos && stop + 3 <= front.size())
      stop = whole.find("two", stop + 1);
    EXPECT_EQ(text, whole.substr(0, stop)) << least;
    EXPECT_EQ(stream.stopped(), stop != std::string::npos) << least;
  }
}

TEST_F(TextStreamTest, ABeginningThatCameToNothingIsHandedOut) {
  TextStream stream(*tokenizer_, {"one two four"});
  std::string text;
  for (int32_t token : tokenizer_->encode("one two three")) text += stream.push(token);
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(text + stream.finish(), "one two three");
}

TEST_F(TextStreamTest, WhatIsHeldBackAtTheEndComesWithFinish) {
  TextStream stream(*tokenizer_, {"one two four"});
  std::string text;
  for (int32_t token : tokenizer_->encode("x one two")) text += stream.push(token);
  EXPECT_EQ(text.find("one"), std::string::npos);
  EXPECT_EQ(text + stream.finish(), "x one two");
}

// The bytes of a character are text once the next token is there, but a stop string does not wait
// for that.
TEST_F(TextStreamTest, AStopStringOfByteTokensIsFoundAtOnce) {
  const int32_t first = id("<0xC3>");
  const int32_t second = id("<0xA9>");
  TextStream stream(*tokenizer_, {"\xC3\xA9"});
  EXPECT_EQ(stream.push(first), "");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push(second), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.finish(), "");
}

// Whatever the tokens, what is handed out is the text up to the stop string that is complete first.
TEST_F(TextStreamTest, RandomTextsEndWhereTheStopStringBegins) {
  const std::vector<int32_t> ids = tokenizer_->encode(
      "And God said, Let there be light: and there was light. And God saw the light, that it was "
      "good: and God divided the light from the darkness.");
  const std::string whole = tokenizer_->decode(ids, true);
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    const std::string stop = whole.substr(random() % (whole.size() - 8), 1 + random() % 8);
    TextStream stream(*tokenizer_, {stop, "no such text"});
    std::string text;
    for (size_t i = 0; i < ids.size() && !stream.stopped(); ++i) text += stream.push(ids[i]);
    ASSERT_TRUE(stream.stopped());
    EXPECT_EQ(text, whole.substr(0, whole.find(stop))) << stop;
  }
}

}  // namespace
}  // namespace lorax

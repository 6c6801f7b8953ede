#include "base/nearest_word.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lorax {
namespace {

const std::vector<std::string> kCommands = {"serve", "generate", "logits", "tokenize", "info"};

TEST(NearestWordTest, FindsWhatWasMistyped) {
  EXPECT_EQ(nearest_word("srve", kCommands), "serve");
  EXPECT_EQ(nearest_word("sevre", kCommands), "serve");
  EXPECT_EQ(nearest_word("Generat", kCommands), "generate");
  EXPECT_EQ(nearest_word("tokenise", kCommands), "tokenize");
}

TEST(NearestWordTest, SaysNothingOfWhatIsLikeNone) {
  EXPECT_EQ(nearest_word("frobnicate", kCommands), std::nullopt);
  EXPECT_EQ(nearest_word("", kCommands), std::nullopt);
  EXPECT_EQ(nearest_word("x", std::vector<std::string>{"ab", "y"}), std::nullopt);
  EXPECT_EQ(nearest_word(std::string(100000, 's'), kCommands), std::nullopt);
}

TEST(NearestWordTest, ExchangedNeighboursAreOneChange) {
  // Two replacements would be no nearer to one than to the other.
  const std::vector<std::string> known = {"abxx", "abdc"};
  EXPECT_EQ(nearest_word("abcd", known), "abdc");
}

TEST(NearestWordTest, SentenceOrNothing) {
  EXPECT_EQ(did_you_mean("inof", kCommands), "; did you mean info?");
  EXPECT_EQ(did_you_mean("frobnicate", kCommands), "");
}

}  // namespace
}  // namespace lorax

#include "text/added_tokens.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace lorax {
namespace {

using Parts = std::vector<std::pair<std::string, int32_t>>;

Parts split(std::vector<AddedToken> tokens, std::string_view text) {
  Parts parts;
  for (const auto& part : AddedTokenMatcher(std::move(tokens)).split(text)) {
    parts.emplace_back(part.text, part.id);
  }
  return parts;
}

TEST(AddedTokenMatcherTest, TheLongestTokenAtTheFirstPlaceWins) {
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "ab"}, {.id = 2, .content = "abcd"}, {.id = 3, .content = "bcde"}};
  EXPECT_EQ(split(tokens, "xabcde"), (Parts{{"x", -1}, {"abcd", 2}, {"e", -1}}));
  EXPECT_EQ(split(tokens, "abcabcde"), (Parts{{"ab", 1}, {"c", -1}, {"abcd", 2}, {"e", -1}}));
  EXPECT_EQ(split(tokens, "abc"), (Parts{{"ab", 1}, {"c", -1}}));
  EXPECT_EQ(split(tokens, ""), Parts{});
}

TEST(AddedTokenMatcherTest, OfEqualTokensTheFirstCounts) {
  EXPECT_EQ(split({{.id = 5, .content = "a"}, {.id = 4, .content = "a"}}, "a"), (Parts{{"a", 5}}));
}

TEST(AddedTokenMatcherTest, TakesWhiteSpaceAlong) {
  const std::vector<AddedToken> both = {
      {.id = 1, .content = "<x>", .lstrip = true, .rstrip = true}};
  EXPECT_EQ(split(both, "a \u3000<x>\n\u0085b"),
            (Parts{{"a", -1}, {" \u3000<x>\n\u0085", 1}, {"b", -1}}));
  // U+200B is no white space.
  EXPECT_EQ(split(both, "\u200b<x>"), (Parts{{"\u200b", -1}, {"<x>", 1}}));
}

TEST(AddedTokenMatcherTest, WhiteSpaceTakenAlongIsStillSearched) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<x>", .rstrip = true},
                                          {.id = 2, .content = "\n"}};
  EXPECT_EQ(split(tokens, "<x> \n a"), (Parts{{"<x> \n ", 1}, {"\n", 2}, {" a", -1}}));
}

TEST(AddedTokenMatcherTest, ManyTokensThatTakeEachOtherAlongTakeLinearTime) {
  const std::string text(1 << 20, '\n');
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "\n", .lstrip = true, .rstrip = true}};
  EXPECT_EQ(AddedTokenMatcher(tokens).split(text).size(), text.size());
}

}  // namespace
}  // namespace lorax

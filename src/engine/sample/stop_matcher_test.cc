#include "engine/sample/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace lorax {
namespace {

using Found = std::pair<std::string, size_t>;

// In pieces of `size` bytes. The stop string and the bytes up to its end; "" if none is found.
Found find(const std::vector<std::string>& stops, const std::string& text, size_t size) {
  StopMatcher matcher(stops);
  for (size_t at = 0; at < text.size(); at += size) {
    const StopMatcher::Match match = matcher.push(std::string_view(text).substr(at, size));
    if (match.stop != nullptr) return {*match.stop, at + match.end};
  }
  return {"", 0};
}

TEST(StopMatcherTest, FindsTheOneThatIsCompleteFirstAndTheLongestOfThose) {
  EXPECT_EQ(find({"abcx", "bc"}, "zabcx", 99), Found("bc", 4));
  EXPECT_EQ(find({"b", "ab"}, "zab", 99), Found("ab", 3));
  EXPECT_EQ(find({"aab"}, "aaab", 1), Found("aab", 4));
  EXPECT_EQ(find({"a"}, "bcd", 1).first, "");
}

TEST(StopMatcherTest, HoldsBackTheLongestBeginning) {
  StopMatcher matcher({"</s>", "s>x"});
  matcher.push("ab<");
  EXPECT_EQ(matcher.held_back(), 1u);
  matcher.push("/s");
  EXPECT_EQ(matcher.held_back(), 3u);
  matcher.push("q");
  EXPECT_EQ(matcher.held_back(), 0u);
  matcher.push("<s>");
  EXPECT_EQ(matcher.held_back(), 2u);
}

TEST(StopMatcherTest, EmptyAndInvalidStringsAreNeverFound) {
  EXPECT_TRUE(StopMatcher({""}).empty());
  EXPECT_TRUE(StopMatcher({"\xA9"}).empty());
  EXPECT_EQ(find({"", "\xA9", "b"},
                 "\xC3\xA9"
                 "ab",
                 1),
            Found("b", 4));
}

// Against a search at every end, for random strings and any pieces.
TEST(StopMatcherTest, PiecesDoNotMatter) {
  std::mt19937 random(1);
  for (int round = 0; round < 5000; ++round) {
    const auto text_of = [&](size_t length) {
      std::string text;
      for (size_t i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 2);
      return text;
    };
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = text_of(1 + random() % 5);
    const std::string text = text_of(random() % 20);
    Found want = {"", 0};
    for (size_t end = 1; end <= text.size() && want.first.empty(); ++end) {
      for (const std::string& stop : stops) {
        if (text.substr(0, end).ends_with(stop) && stop.size() > want.first.size()) {
          want = {stop, end};
        }
      }
    }
    for (size_t size : {1, 2, 3, 100}) EXPECT_EQ(find(stops, text, size), want) << text;
  }
}

}  // namespace
}  // namespace lorax

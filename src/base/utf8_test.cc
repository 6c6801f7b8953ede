#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace lorax {
namespace {

constexpr std::string_view kBad = "\xEF\xBF\xBD";

std::string bad(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += kBad;
  return out;
}

TEST(Utf8Test, ValidTextStaysAsItIs) {
  const std::string text =
      std::string("a\0b", 3) + "é߿ࠀ퟿\xEE\x80\x80\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF";
  EXPECT_TRUE(is_valid_utf8(text));
  EXPECT_EQ(replace_invalid_utf8(text), text);
}

// The example of Unicode 15, table 3-8, and the limits of table 3-7.
TEST(Utf8Test, EachMaximalPartBecomesOneReplacement) {
  EXPECT_EQ(replace_invalid_utf8("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), bad(8) + "A");
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), bad(8) + "A");
  EXPECT_EQ(replace_invalid_utf8("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), bad(4) + "A");
  EXPECT_EQ(replace_invalid_utf8("\xF4\x90\x80\x80\xF5\xFF"), bad(6));
  EXPECT_EQ(replace_invalid_utf8("a\xE4\xB8"), std::string(1, 'a').append(bad(1)));
  EXPECT_EQ(replace_invalid_utf8("12345678\x80 12345678"), "12345678" + bad(1) + " 12345678");
}

TEST(Utf8Test, LengthOfASequence) {
  EXPECT_EQ(utf8_sequence_length("aé"), 1u);
  EXPECT_EQ(utf8_sequence_length("éa"), 2u);
  EXPECT_EQ(utf8_sequence_length("中a"), 3u);
  EXPECT_EQ(utf8_sequence_length("😀a"), 4u);
  EXPECT_EQ(utf8_sequence_length("\xF0\x9F\x98"), 0u);
  EXPECT_EQ(utf8_sequence_length(""), 0u);
}

}  // namespace
}  // namespace lorax

#include "formats/json_file.h"

#include <gtest/gtest.h>

#include <sys/stat.h>
#include <cmath>
#include <limits>

#include <boost/json/parse.hpp>

#include "formats/printable.h"
#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace json = boost::json;

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(ParseJsonTest, ValuesAreThoseOfTheDocument) {
  for (const std::string& text :
       {std::string(R"({"a": [1, -2, 2.5e3, true, false, null], "b": {"a": {}, "c": []}})"),
        std::string(R"(  "\u00e9\ud83d\ude00\n\\"  )"), std::string("18446744073709551615"),
        std::string(" 7\r\n\t "), std::string(R"({"": {"": ""}})"), nested(32)}) {
    EXPECT_EQ(parse_json(text, "f"), json::parse(text)) << text;
  }
}

// The parser is fed in pieces: every token must survive lying across the boundary of two.
TEST(ParseJsonTest, TokensMayLieAnywhereInALongText) {
  const std::string token =
      R"({"a long key with \u00e9": "a long value with \ud83d\ude00", "n": -123456789.25e-3})";
  for (size_t padding = 65400; padding < 65540; ++padding) {
    const std::string text = std::string(padding, ' ') + token;
    EXPECT_EQ(parse_json(text, "f"), json::parse(token)) << padding;
  }
}

TEST(ParseJsonTest, ErrorsNameTheByte) {
  struct Case {
    std::string text;
    std::string_view expected;
  };
  const Case cases[] = {
      {"", "not valid JSON at byte 0: incomplete"},
      {"  ", "not valid JSON at byte 2: incomplete"},
      {"{", "not valid JSON at byte 1: incomplete"},
      {R"({"a": 1)", "not valid JSON at byte 7: incomplete"},
      {R"({"a": 1} x)", "not valid JSON at byte 9: extra data"},
      {"{}{}", "not valid JSON at byte 2: extra data"},
      {R"({"a": 1,})", "not valid JSON at byte 8: syntax"},
      {"{'a': 1}", "not valid JSON at byte 1: syntax"},
      {"[1, NaN]", "not valid JSON at byte 4: syntax"},
      {"[1] // x", "not valid JSON at byte 4: extra data"},
      {"\xef\xbb\xbf{}", "not valid JSON at byte 0: syntax"},
      {"[\"a\xff\"]", "not valid JSON at byte 3"},
      {"[\"a\nb\"]", "not valid JSON at byte 3"},
      {R"(["\ud83d"])", "not valid JSON at byte 8"},
      {"[1e999999999999]", "not valid JSON at byte"},
      {std::string(3, '\0'), "not valid JSON at byte 0"},
      {nested(33), "not valid JSON at byte 32: too deep"},
      {std::string(100'000, '['), "not valid JSON at byte 32: too deep"},
      {std::string(200'000, ' ') + "x", "not valid JSON at byte 200000"},
      {R"({"a": 1, "b": {"a": 2}, "a": 3})", "byte 26: the key \"a\" stands twice"},
      {R"([{"x": {"k\n": 1, "k\u000a": 2}}])", "byte 26: the key \"k\\x0a\" stands twice"},
  };
  for (const Case& c : cases) {
    expect_error(error_of([&] { parse_json(c.text, "f.json"); }), "f.json: ", c.expected);
  }
}

TEST(ParseJsonTest, NumbersOfPythonInFilesOnly) {
  const std::string text = R"({"NaN": "a \"NaN\"", "list": [NaN, Infinity, -Infinity, -1]})";
  const json::value value = parse_python_json(text, "f");
  EXPECT_EQ(value.at("NaN"), "a \"NaN\"");
  const json::array& list = value.at("list").as_array();
  EXPECT_TRUE(std::isnan(list[0].as_double()));
  EXPECT_EQ(list[1].as_double(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(list[2].as_double(), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(list[3].as_int64(), -1);
  expect_error(error_of([&] { parse_json(text, "f"); }), "f: ", "not valid JSON at byte 30");
  // Errors name the byte of the file.
  const auto error = [](std::string_view wrong) {
    return error_of([&] { parse_python_json(wrong, "f"); });
  };
  expect_error(error("[NaN, x]"), "f: ", "not valid JSON at byte 6");
  expect_error(error("[NaN, NaN, -Infinity x]"), "f: ", "not valid JSON at byte 21");
  expect_error(error("[NaNs]"), "f: ", "not valid JSON at byte 4");
  expect_error(error("{NaN: 1}"), "f: ", "byte 1: a key is a number");
}

TEST(ParseJsonTest, AsManyValuesAsAreAllowed) {
  std::string text = "[0";
  for (size_t i = 0; i < 3'999'998; ++i) text += ",0";
  EXPECT_EQ(parse_json(text + "]", "f").as_array().size(), 3'999'999u);
  expect_error(error_of([&] { parse_json(text + ",0]", "f"); }), "f: byte 8000", "4000000 values");
}

TEST(PrintableTest, CutsAndEscapes) {
  EXPECT_EQ(printable("a\n\x1b[31m\x7f\xc3\xa9"), "a\\x0a\\x1b[31m\\x7f\xc3\xa9");
  EXPECT_EQ(printable(std::string(100, 'a')), std::string(100, 'a'));
  EXPECT_EQ(printable(std::string(101, 'a')), std::string(100, 'a') + "...");
  // Never in the middle of a character.
  EXPECT_EQ(printable(std::string(99, 'a') + "\xc3\xa9" + "b"),
            std::string(99, 'a') + "\xc3\xa9...");
}

class JsonFileTest : public TestWithDirectory {};

TEST_F(JsonFileTest, ReadsAWholeFile) {
  EXPECT_EQ(read_json_file(write_text("a.json", "{\"a\": 1}\n")), json::parse("{\"a\": 1}"));
  EXPECT_EQ(read_file(write_text("b", std::string("x\0y", 3)), 3), std::string("x\0y", 3));
  EXPECT_EQ(read_file(write_text("c", ""), 0), "");
}

TEST_F(JsonFileTest, FilesThatCannotBeRead) {
  const auto error = [&](const std::string& name) {
    return error_of([&] { read_json_file(directory_ / name, 100); });
  };
  const std::string here = directory_.string();
  expect_error(error("none.json"), here + "/none.json: ", "no such file");
  expect_error(error(""), here, "is not a file");
  ASSERT_EQ(::mkfifo((directory_ / "pipe").c_str(), 0600), 0);
  expect_error(error("pipe"), here + "/pipe: ", "is not a file");
  write_text("long.json", std::string(101, ' '));
  expect_error(error("long.json"), here + "/long.json: ", "101 bytes are more than");
  write_text("bad.json", "{\"a\": }");
  expect_error(error("bad.json"), here + "/bad.json: ", "not valid JSON at byte 6");
  std::filesystem::create_symlink("loop", directory_ / "loop");
  expect_error(error("loop"), here + "/loop: ", "cannot be read: ");
}

}  // namespace
}  // namespace lorax

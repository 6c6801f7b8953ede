#include "adapters/peft/python_regex.h"

#include <chrono>

#include "adapters/peft/python_syntax.h"
#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

constexpr const char* kTexts[] = {
    "a",        "ab", "aab", "aa",   "bb",  "abc", "]a",   "model.layers.12.x",
    "m.q_proj", "a.", "a.b", "x{,y", "a{b", "",    "aaab", "b"};

// Of each text: re.fullmatch and re.match of Python 3.11.
struct Expected {
  const char* pattern;
  const char* full;
  const char* start;
};
constexpr Expected kExpected[] = {
    {R"(a|ab)", "1100000000000000", "1111010001101010"},
    {R"(.*q_proj)", "0000000010000000", "0000000010000000"},
    {R"(model\.layers\.\d+\.x)", "0000000100000000", "0000000100000000"},
    {R"((?i)ABC)", "0000010000000000", "0000010000000000"},
    {R"([]a]+)", "1001001000000000", "1111011001101010"},
    {R"([^]a]+)", "0000100010010001", "0000100110010001"},
    {R"((a|b)\1)", "0001100000000000", "0011100000000010"},
    {R"((?P<n>a)(?P=n))", "0001000000000000", "0011000000000010"},
    {R"(a{2})", "0001000000000000", "0011000000000010"},
    {R"(a{2,}b?)", "0011000000000010", "0011000000000010"},
    {R"(^a$)", "1000000000000000", "1000000000000000"},
    {R"(\Aa\Z)", "1000000000000000", "1000000000000000"},
    {R"(a(?=b)b)", "0100000000000000", "0100010000000000"},
    {R"((?!b)\w+)", "1111010000000010", "1111010111111010"},
    {R"(.(?<!a)b)", "0000100000000000", "0000100000000000"},
    {R"((?>a+)b)", "0110000000000010", "0110010000000010"},
    {R"(a++b)", "0110000000000010", "0110010000000010"},
    {R"(x{,y)", "0000000000010000", "0000000000010000"},
    {R"(a{b)", "0000000000001000", "0000000000001000"},
    {R"(\x61\.)", "0000000001000000", "0000000001100000"},
    {R"()", "0000000000000100", "1111111111111111"},
    {R"((?i:A)b)", "0100000000000000", "0100010000000000"},
    {R"((?s).b)", "0100100000000000", "0100110000000000"},
    {R"([\w.]+\bb)", "0000000000100000", "0000000000100000"},
    {R"(a(?#note)b)", "0100000000000000", "0100010000000000"},
    {R"(\bab)", "0100000000000000", "0100010000000000"},
};

TEST(PythonRegex, MatchesAsPythonDoes) {
  for (const Expected& expected : kExpected) {
    const PythonRegex regex(expected.pattern, "test");
    for (size_t i = 0; i < std::size(kTexts); ++i) {
      EXPECT_EQ(regex.fullmatch(kTexts[i]), expected.full[i] == '1')
          << expected.pattern << " fullmatch " << kTexts[i];
      EXPECT_EQ(regex.match(kTexts[i]), expected.start[i] == '1')
          << expected.pattern << " match " << kTexts[i];
    }
  }
}

TEST(PythonRegex, NamedGroup) {
  const PythonRegex regex(R"(x|layers\.(?P<idx>\d+))", "test");
  EXPECT_EQ(regex.match_group("layers.12.q", "idx"), "12");
  EXPECT_EQ(regex.match_group("x", "idx"), std::nullopt);  // takes no part
  EXPECT_EQ(regex.match_group("y", "idx"), std::nullopt);
}

TEST(PythonRegex, RefusesWhatTheTwoSyntaxesReadDifferently) {
  for (const char* pattern :
       {R"(\Qa\E)", R"(\h)",     R"(\K)",   R"(\p{L})",    R"(\u0061)", R"(\x{61})", R"(\x1)",
        R"(\012)",  R"([\1])",   R"([\A])", "[[:alpha:]]", "a{,3}",     "a{,}",      "(?R)",
        "(?1)",     "(?(1)a|b)", "(?x)a b", "a(?i)b",      "(?<n>a)",   "(?'n'a)",   "(?|a|b)",
        "(?C1)",    "(*UTF)a",   "(?&n)",   "(?a)b",       "(?#",       "[a",        "\\",
        "(?i-s)a",  "(?:-)(?",   "(?"}) {
    EXPECT_NE(python_syntax_problem(pattern), "") << pattern;
    expect_error(error_of([&] { PythonRegex(pattern, "test"); }), "test: the pattern", "");
  }
}

TEST(PythonRegex, RefusesWhatIsNoPattern) {
  for (const char* pattern : {"(", ")", "a**", "*a", "[z-a]", "(?P<n>a)(?P<n>b)", "\xff"}) {
    expect_error(error_of([&] { PythonRegex(pattern, "test"); }), "test: the pattern",
                 "is no regular expression");
  }
}

TEST(PythonRegex, NeitherHangsNorOverflows) {
  const std::string text(40, 'a');
  const auto begin = std::chrono::steady_clock::now();
  for (const char* pattern :
       {"(a*)*[bc]", "(a|aa)+[bc]", "(.*)*(.*)*(.*)*[bc]", "(a?){40}a{40}[bc]"}) {
    const PythonRegex regex(pattern, "test");
    const std::string error = error_of([&] { EXPECT_FALSE(regex.fullmatch(text)); });
    if (error != "no error") expect_error(error, "test: the pattern", "a simpler one");
  }
  expect_error(error_of([&] { PythonRegex("(a|aa)+[bc]", "test").fullmatch(text); }),
               "test: the pattern", "a simpler one");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  const std::string deep = std::string(20000, '(') + "a" + std::string(20000, ')');
  EXPECT_NE(error_of([&] { PythonRegex(deep, "test").fullmatch("a"); }), "no error");
  EXPECT_NE(error_of([&] { PythonRegex("(((a{999}){999}){999}){999}", "test"); }), "no error");
  EXPECT_NE(error_of([&] { PythonRegex(std::string(70000, 'a'), "test"); }), "no error");
}

}  // namespace
}  // namespace lorax

// For this floor's tests: what Hugging Face's tokenizers gives, from tests/data/text
// (tools/make_tokenizer_goldens.py), and texts made at random.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_to.hpp>

#include "base/utf8.h"
#include "text/incremental_detokenizer.h"
#include "text/tokenizer.h"

namespace lorax::testing {

inline const std::filesystem::path kTextData = "tests/data/text";

inline std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  EXPECT_TRUE(stream) << file;
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline boost::json::value read_json(const std::filesystem::path& file) {
  return boost::json::parse(read_bytes(file));
}

struct GoldenCase {
  std::string text;  // empty where only ids are given
  std::vector<int32_t> ids;
  std::string decoded;
  std::string decoded_skip;  // without special tokens
};

// An array of "texts" or "ids" of a file of cases.
inline std::vector<GoldenCase> golden_cases(const boost::json::value& array) {
  std::vector<GoldenCase> cases;
  for (const boost::json::value& item : array.as_array()) {
    const boost::json::value* text = item.as_object().if_contains("text");
    cases.push_back({text == nullptr ? "" : boost::json::value_to<std::string>(*text),
                     boost::json::value_to<std::vector<int32_t>>(item.at("ids")),
                     boost::json::value_to<std::string>(item.at("decoded")),
                     boost::json::value_to<std::string>(item.at("decoded_skip"))});
  }
  return cases;
}

// Checks decode, and that the pieces of text that come one by one are valid and make the same.
inline void expect_decodes(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                           const std::string& expected, bool skip_special_tokens) {
  EXPECT_EQ(tokenizer.decode(ids, skip_special_tokens), expected);
  IncrementalDetokenizer detokenizer(tokenizer, skip_special_tokens);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string added = detokenizer.push(id);
    EXPECT_TRUE(is_valid_utf8(added));
    streamed += added;
  }
  EXPECT_EQ(streamed + detokenizer.finish(), expected);
}

inline void expect_decodes(const Tokenizer& tokenizer, const GoldenCase& golden) {
  expect_decodes(tokenizer, golden.ids, golden.decoded, false);
  expect_decodes(tokenizer, golden.ids, golden.decoded_skip, true);
}

// Valid UTF-8 of fragments that are hard on tokenizers: runs, parts of special tokens, characters
// of all planes.
inline std::string random_text(std::mt19937& random, const Tokenizer& tokenizer) {
  const auto below = [&](uint32_t limit) { return static_cast<uint32_t>(random() % limit); };
  const auto piece = [&] {
    return tokenizer.piece(
        static_cast<int32_t>(below(static_cast<uint32_t>(tokenizer.vocab_size()))));
  };
  std::string text;
  for (uint32_t fragments = 1 + below(6); fragments > 0; --fragments) {
    switch (below(5)) {
      case 0:
        text += piece();
        break;
      case 1:
        text += piece().substr(0, 4);
        break;
      case 2: {
        constexpr std::string_view kRepeated[] = {" ", "\n", "\t", "▁", "a", "é", "😀", "\xFF"};
        const std::string_view repeated = kRepeated[below(std::size(kRepeated))];
        for (uint32_t count = 1 + below(40); count > 0; --count) text += repeated;
        break;
      }
      case 3:
        for (uint32_t count = 1 + below(8); count > 0; --count) {
          text += static_cast<char>(below(256));
        }
        break;
      default:
        text += " human";
    }
  }
  return replace_invalid_utf8(text);
}

}  // namespace lorax::testing

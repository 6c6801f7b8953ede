#include "text/bpe_tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include <boost/json/serialize.hpp>

#include "base/error.h"
#include "text/testing/golden_cases.h"

namespace lorax {
namespace {

namespace json = boost::json;
using testing::expect_decodes;
using testing::golden_cases;
using testing::GoldenCase;
using testing::kTextData;
using testing::read_bytes;
using testing::read_json;

std::unique_ptr<BpeTokenizer> load(const std::string& name) {
  return BpeTokenizer::from_json(read_bytes(kTextData / name / "tokenizer.json"), name);
}

void expect_golden(const Tokenizer& tokenizer, const json::value& texts) {
  for (const GoldenCase& golden : golden_cases(texts)) {
    SCOPED_TRACE(golden.text);
    EXPECT_EQ(tokenizer.encode(golden.text), golden.ids);
    expect_decodes(tokenizer, golden);
  }
}

TEST(BpeTokenizerTest, GivesTheReferencesIdsAndTexts) {
  expect_golden(*load("small"), read_json(kTextData / "small/cases.json").at("texts"));
}

TEST(BpeTokenizerTest, GivesGemma2sIdsAndTexts) {
  const json::value cases = read_json(kTextData / "gemma2/cases.json");
  ASSERT_EQ(cases.at("texts").as_array().size(), 170u);
  expect_golden(*load("gemma2"), cases.at("texts"));
}

TEST(BpeTokenizerTest, DecodesAnyIdsAsTheReference) {
  const auto tokenizer = load("small");
  const json::value cases = read_json(kTextData / "small/cases.json");
  for (const GoldenCase& golden : golden_cases(cases.at("ids"))) expect_decodes(*tokenizer, golden);
}

TEST(BpeTokenizerTest, DoesTheOptionsOfTokenizerJsonAsTheReference) {
  const json::value variants = read_json(kTextData / "variants.json");
  ASSERT_FALSE(variants.as_array().empty());
  for (const json::value& variant : variants.as_array()) {
    SCOPED_TRACE(variant.at("name").as_string().c_str());
    const auto tokenizer =
        BpeTokenizer::from_json(json::serialize(variant.at("tokenizer")), "variant");
    expect_golden(*tokenizer, variant.at("texts"));
  }
}

TEST(BpeTokenizerTest, KnowsItsTokens) {
  const auto tokenizer = load("small");
  EXPECT_EQ(tokenizer->vocab_size(), 1000);
  EXPECT_EQ(tokenizer->bos_id(), 2);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->piece(2), "<bos>");
  EXPECT_EQ(tokenizer->find_piece("<bos>"), 2);
  EXPECT_EQ(tokenizer->find_piece("not a piece"), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(*tokenizer->find_piece("<start_of_turn>")));
  EXPECT_FALSE(tokenizer->is_special(*tokenizer->find_piece("<mask>")));
  EXPECT_FALSE(tokenizer->is_special(-1));
}

TEST(BpeTokenizerTest, TheConfigNamesTokensAndAddsThem) {
  const TokenizerConfig config = TokenizerConfig::from_json(
      R"({"bos_token": {"content": "<eos>"}, "eos_token": "<new>", "add_bos_token": false,
          "added_tokens_decoder": {"1000": {"content": "<new>", "special": true},
                                   "2": {"content": "<bos>", "special": false}}})",
      "tokenizer_config.json");
  const auto tokenizer =
      BpeTokenizer::from_json(read_bytes(kTextData / "small/tokenizer.json"), "small", config);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 1000);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->vocab_size(), 1001);
  EXPECT_EQ(tokenizer->encode("<new><bos>"), (std::vector<int32_t>{1000, 2}));
  EXPECT_TRUE(tokenizer->is_special(1000));
  EXPECT_FALSE(tokenizer->is_special(2)) << "the config has the last word, as in AutoTokenizer";
}

TEST(BpeTokenizerTest, BytesThatAreNotUtf8CountAsReplacementCharacters) {
  const auto tokenizer = load("small");
  EXPECT_EQ(tokenizer->encode("All\xE4\xB8 \xFF"), tokenizer->encode("All\uFFFD \uFFFD"));
}

TEST(BpeTokenizerTest, RefusesEndlessTexts) {
  const auto tokenizer = load("small");
  EXPECT_THROW(tokenizer->encode(std::string(Tokenizer::kMaxTextBytes + 1, 'a')), Error);
}

TEST(BpeTokenizerTest, IdsOutsideTheVocabularyGiveNothing) {
  const auto tokenizer = load("small");
  const std::vector<int32_t> ids = {-1, 1000, 1 << 30, *tokenizer->find_piece("\n")};
  expect_decodes(*tokenizer, ids, "\n", false);
}

// A quadratic step anywhere would take hours.
TEST(BpeTokenizerTest, OneMegabyteOfAnythingIsNoMatter) {
  const auto tokenizer = load("gemma2");
  for (const std::string_view repeated : {"a", " ", "\n", "\t", "▁", "=", "😀", "\U0001FAE8", "é",
                                          "<", "<start_of_turn", "abcde ", "\xFF", "\xE4\xB8"}) {
    SCOPED_TRACE(repeated);
    std::string text;
    while (text.size() < (1 << 20)) text += repeated;
    const auto start = std::chrono::steady_clock::now();
    const std::vector<int32_t> ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids, false).empty(), false);
    // Far more than it takes, for slow machines and sanitizers.
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  }
}

// The message for the plain variant with one field changed.
std::string error_with(std::string_view pointer, std::string_view value) {
  json::value tokenizer = read_json(kTextData / "variants.json").at(0).at("tokenizer");
  tokenizer.at_pointer(pointer) = json::parse(value);
  try {
    BpeTokenizer::from_json(json::serialize(tokenizer), "t.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(BpeTokenizerTest, RefusesWhatItDoesNotDo) {
  EXPECT_EQ(error_with("/model/type", R"("Unigram")"),
            R"(t.json: model.type: "Unigram" is not supported; only "BPE" is)");
  EXPECT_EQ(error_with("/model/dropout", "0.1"),
            "t.json: model.dropout: must be null: ids would be random");
  EXPECT_EQ(error_with("/model/end_of_word_suffix", R"("</w>")"),
            "t.json: model.end_of_word_suffix: must be null");
  EXPECT_EQ(error_with("/normalizer", R"({"type": "NFKC"})"),
            R"(t.json: normalizer: "NFKC" is not supported here)");
  EXPECT_EQ(
      error_with("/normalizer/pattern", R"({"Regex": " +"})"),
      R"(t.json: normalizer.pattern: only patterns of the form {"String": ...} are supported)");
  EXPECT_EQ(error_with("/pre_tokenizer", R"({"type": "ByteLevel"})"),
            R"(t.json: pre_tokenizer: "ByteLevel" is not supported here)");
  EXPECT_EQ(error_with("/pre_tokenizer", R"({"type": "Split", "pattern": {"String": " "}})"),
            "no error");
  EXPECT_EQ(error_with("/pre_tokenizer", R"({"type": "Split", "pattern": {"String": "a"}})"),
            "t.json: pre_tokenizer: a Split is supported only at one character that the normalizer "
            "replaces");
  EXPECT_EQ(error_with("/pre_tokenizer",
                       R"({"type": "Split", "pattern": {"String": " "}, "invert": true})"),
            "t.json: pre_tokenizer.invert: must be false");
  EXPECT_EQ(error_with("/decoder", "null"), "t.json: decoder: must not be null");
  EXPECT_EQ(error_with("/decoder/decoders/1", R"({"type": "Metaspace"})"),
            R"(t.json: decoder.decoders[1]: "Metaspace" is not supported here)");
  EXPECT_EQ(error_with("/decoder/decoders/1",
                       R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})"),
            "t.json: decoder.decoders[1]: \"Strip\" is supported only in the order Replace, "
            "ByteFallback, Fuse, Strip");
}

TEST(BpeTokenizerTest, RefusesBrokenFiles) {
  EXPECT_EQ(error_with("/model/vocab", "[]"), "t.json: model.vocab: must be an object");
  EXPECT_EQ(error_with("/model/vocab/ab", "-1"),
            "t.json: model.vocab: the id of \"ab\" must be a number from 0 to 4194303");
  EXPECT_EQ(error_with("/model/vocab/ab", "1"),
            "t.json: model.vocab: the tokens \"<0x00>\" and \"ab\" have one id, 1");
  EXPECT_EQ(error_with("/model/unk_token", R"("?")"),
            "t.json: model.unk_token: the vocabulary has no token \"?\"");
  EXPECT_EQ(error_with("/model/merges/1", R"("b z")"),
            "t.json: model.merges[1]: the vocabulary has no token \"z\"");
  for (const char* merge : {"1", R"("ab")", R"("a b c")", R"(["a"])", R"(["a", 1])"}) {
    EXPECT_EQ(error_with("/model/merges/1", merge),
              R"(t.json: model.merges[1]: must be "a b" or ["a", "b"])");
  }
  EXPECT_EQ(error_with("/added_tokens", R"([{"id": 7, "content": "ab"}])"),
            "t.json: the added token \"ab\" has the id 7, but 262 in the vocabulary");
  EXPECT_EQ(
      error_with("/added_tokens", R"([{"id": 7, "content": "<x>"}])"),
      "t.json: the added token \"<x>\" has the id 7, which lies among those of the vocabulary");
  EXPECT_EQ(
      error_with("/added_tokens", R"([{"id": 900, "content": "x", "single_word": true}])"),
      "t.json: added_tokens[0]: the added token \"x\" has single_word, which is not supported; "
      "set it to false");
  const std::string longer_than_allowed(1025, 'x');
  EXPECT_EQ(
      error_with("/added_tokens", R"([{"id": 900, "content": ")" + longer_than_allowed + "\"}]"),
      "t.json: added_tokens[0]: an added token must have 1 to 1024 bytes");
}

TEST(BpeTokenizerTest, RefusesStepsThatBlowTextsUp) {
  std::string steps;
  for (int i = 0; i < 40; ++i) {
    steps += R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},)";
  }
  steps.pop_back();
  const std::string tail =
      "its steps make texts too long; no content may have more than 64 bytes, nor all together "
      "make "
      "a text more than 64 times as long";
  EXPECT_EQ(error_with("/normalizer", R"({"type": "Sequence", "normalizers": [)" + steps + "]}"),
            "t.json: normalizer: " + tail);
  EXPECT_EQ(error_with("/decoder", R"({"type": "Sequence", "decoders": [)" + steps + "]}"),
            "t.json: decoder: " + tail);
}

TEST(BpeTokenizerTest, RefusesWhatIsNoJson) {
  for (const std::string_view text : {"", "{", "\xFF", "{\"model\": \"\xFF\"}", "[1]", "null"}) {
    EXPECT_THROW(BpeTokenizer::from_json(text, "t.json"), Error) << text;
  }
}

}  // namespace
}  // namespace lorax

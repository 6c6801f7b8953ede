#include "text/sentencepiece_tokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/bpe_tokenizer.h"
#include "text/testing/golden_cases.h"

namespace lorax {
namespace {

using namespace std::string_literals;
using testing::expect_decodes;
using testing::golden_cases;
using testing::GoldenCase;
using testing::kTextData;
using testing::read_bytes;
using testing::read_json;

std::unique_ptr<SentencePieceTokenizer> load(const std::string& name,
                                             const TokenizerConfig& config = {}) {
  return SentencePieceTokenizer::from_bytes(read_bytes(kTextData / name / "tokenizer.model"), name,
                                            config);
}

std::unique_ptr<BpeTokenizer> load_json(const std::string& name) {
  return BpeTokenizer::from_json(read_bytes(kTextData / name / "tokenizer.json"), name);
}

std::string error_of(std::string_view bytes) {
  try {
    SentencePieceTokenizer::from_bytes(bytes, "t.model");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(SentencePieceTokenizerTest, GivesTheReferencesIdsAndTexts) {
  const auto tokenizer = load("small");
  const boost::json::value cases = read_json(kTextData / "small/cases.json");
  for (const GoldenCase& golden : golden_cases(cases.at("texts"))) {
    SCOPED_TRACE(golden.text);
    EXPECT_EQ(tokenizer->encode(golden.text), golden.ids);
    expect_decodes(*tokenizer, golden);
  }
  for (const GoldenCase& golden : golden_cases(cases.at("ids"))) expect_decodes(*tokenizer, golden);
}

// The model has Gemma's pieces under other ids: compared by piece.
TEST(SentencePieceTokenizerTest, GivesGemma2sPieces) {
  const auto tokenizer = load("gemma2");
  const auto with_real_ids = load_json("gemma2");
  const boost::json::value cases = read_json(kTextData / "gemma2/cases.json");
  for (const GoldenCase& golden : golden_cases(cases.at("texts"))) {
    SCOPED_TRACE(golden.text);
    std::vector<int32_t> ids;
    for (const int32_t id : tokenizer->encode(golden.text)) {
      ids.push_back(with_real_ids->find_piece(tokenizer->piece(id)).value_or(-1));
    }
    EXPECT_EQ(ids, golden.ids);
  }
}

TEST(SentencePieceTokenizerTest, AgreesWithTheOtherFormOnEveryText) {
  const auto model = load("small");
  const auto json = load_json("small");
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = testing::random_text(random, *json);
    const std::vector<int32_t> ids = model->encode(text);
    ASSERT_EQ(ids, json->encode(text)) << text;
    for (const bool skip_special_tokens : {false, true}) {
      expect_decodes(*model, ids, json->decode(ids, skip_special_tokens), skip_special_tokens);
    }
  }
}

TEST(SentencePieceTokenizerTest, KnowsItsTokens) {
  const auto tokenizer = load("small");
  const auto json = load_json("small");
  ASSERT_EQ(tokenizer->vocab_size(), json->vocab_size());
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    EXPECT_EQ(tokenizer->piece(id), json->piece(id));
    EXPECT_EQ(tokenizer->is_special(id), json->is_special(id)) << json->piece(id);
  }
  EXPECT_EQ(tokenizer->bos_id(), 2);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_TRUE(tokenizer->adds_bos());
}

TEST(SentencePieceTokenizerTest, TheConfigAddsTokensAndSaysWhichAreSpecial) {
  const auto config = [](std::string_view text) {
    return TokenizerConfig::from_json(text, "tokenizer_config.json");
  };
  const auto tokenizer = load("small", config(R"({"eos_token": "<new>", "add_bos_token": false,
                               "added_tokens_decoder": {
                                   "1000": {"content": "<new>", "special": true},
                                   "2": {"content": "<bos>", "special": false},
                                   "4": {"content": "<mask>", "special": true}}})"));
  EXPECT_EQ(tokenizer->eos_id(), 1000);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->encode("<new><mask>"), (std::vector<int32_t>{1000, 4}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{1000, 4, 2}, true), "<bos>");
  EXPECT_THROW(load("small", config(R"({"eos_token": "<none>"})")), Error);
  EXPECT_THROW(load("small", config(R"({"added_tokens_decoder": {"9": {"content": "<mask>"}}})")),
               Error);
  EXPECT_THROW(load("small", config(R"({"added_tokens_decoder": {"9": {"content": "<new>"}}})")),
               Error);
}

TEST(SentencePieceTokenizerTest, BytesThatAreNotUtf8CountAsReplacementCharacters) {
  const auto tokenizer = load("small");
  EXPECT_EQ(tokenizer->encode("All\xE4\xB8 \xFF"), tokenizer->encode("All\uFFFD \uFFFD"));
}

TEST(SentencePieceTokenizerTest, RefusesFilesCutShort) {
  const std::string bytes = read_bytes(kTextData / "small/tokenizer.model");
  EXPECT_EQ(error_of(""), "t.model: is not a SentencePiece model");
  for (size_t size = 1; size < bytes.size(); size += 101) {
    EXPECT_NE(error_of(std::string_view(bytes).substr(0, size)), "no error") << size;
  }
}

// Fields of the model's proto, appended: the last value of a field counts.
TEST(SentencePieceTokenizerTest, RefusesModelsThatAreNotLikeGemmas) {
  const std::string bytes = read_bytes(kTextData / "small/tokenizer.model");
  const std::string unigram = "\x12\x02\x18\x01";
  EXPECT_EQ(error_of(bytes + unigram), "t.model: is not a BPE model; no other kind is supported");
  const std::string dummy_prefix = "\x1A\x06\x18\x01\x20\x00\x28\x01"s;
  const std::string fewer_spaces = "\x1A\x06\x18\x00\x20\x01\x28\x01"s;
  const std::string plain_spaces = "\x1A\x06\x18\x00\x20\x00\x28\x00"s;
  for (const std::string& normalizer : {dummy_prefix, fewer_spaces, plain_spaces}) {
    EXPECT_EQ(error_of(bytes + normalizer),
              "t.model: its normalizer does more than write spaces as \"▁\", which is not "
              "supported; use the tokenizer.json of this model");
  }
  for (const char* rules : {"\x1A\x04\x12\x02xx", "\x2A\x04\x12\x02xx"}) {
    EXPECT_EQ(error_of(bytes + rules),
              "t.model: has rules to normalize text, which are not supported");
  }
  const std::string broken_piece = "\x0A\x03\x0A\x01\xFF";
  EXPECT_EQ(error_of(bytes + broken_piece),
            "t.model: the piece \"\\xff\" is broken: it must have 1 to 1024 bytes of UTF-8 and a "
            "score");
  const std::string no_number = "\x0A\x08\x0A\x01x\x15\x00\x00\xC0\x7F"s;
  EXPECT_EQ(
      error_of(bytes + no_number),
      "t.model: the piece \"x\" is broken: it must have 1 to 1024 bytes of UTF-8 and a score");
  const std::string unknown_type = "\x0A\x05\x0A\x01x\x18\x09";
  EXPECT_EQ(error_of(bytes + unknown_type), "t.model: the piece \"x\" has the unknown type 9");
}

}  // namespace
}  // namespace lorax

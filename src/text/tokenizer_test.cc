#include "text/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "text/bpe_tokenizer.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/testing/golden_cases.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

// A model's folder that is empty at first.
class LoadTokenizerTest : public ::testing::Test {
 protected:
  LoadTokenizerTest() { fs::create_directories(folder_); }
  ~LoadTokenizerTest() override { fs::remove_all(folder_); }

  void put(const std::string& name) {
    fs::copy_file(testing::kTextData / "small" / name, folder_ / name);
  }
  void write(const std::string& name, std::string_view text) {
    std::ofstream(folder_ / name) << text;
  }
  std::string error() {
    try {
      load_tokenizer(folder_);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }

  const fs::path folder_ =
      fs::temp_directory_path() / fmt::format("lorax_tokenizer_test_{}", ::getpid());
};

TEST_F(LoadTokenizerTest, PrefersTokenizerJson) {
  put("tokenizer.model");
  EXPECT_NE(dynamic_cast<SentencePieceTokenizer*>(load_tokenizer(folder_).get()), nullptr);
  put("tokenizer.json");
  EXPECT_NE(dynamic_cast<BpeTokenizer*>(load_tokenizer(folder_).get()), nullptr);
}

TEST_F(LoadTokenizerTest, ReadsTheConfigBesideEitherForm) {
  write("tokenizer_config.json", R"({"bos_token": "<pad>", "add_bos_token": false})");
  for (const char* name : {"tokenizer.model", "tokenizer.json"}) {
    put(name);
    const auto tokenizer = load_tokenizer(folder_);
    EXPECT_EQ(tokenizer->bos_id(), 0);
    EXPECT_FALSE(tokenizer->adds_bos());
  }
}

TEST_F(LoadTokenizerTest, SaysWhatIsMissing) {
  EXPECT_EQ(error(), folder_.string() +
                         ": has no tokenizer; put a tokenizer.json or a tokenizer.model there");
}

TEST_F(LoadTokenizerTest, SaysWhichFileIsBroken) {
  put("tokenizer.json");
  const std::string config = (folder_ / "tokenizer_config.json").string();
  write("tokenizer_config.json", "{");
  EXPECT_EQ(error(), config + ": not valid JSON: incomplete JSON");
  write("tokenizer_config.json", R"({"bos_token": 1})");
  EXPECT_EQ(error(), config + ": bos_token: must be an object");
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})");
  EXPECT_EQ(error(), config + ": added_tokens_decoder.x: the key must be a token's id");
  write("tokenizer_config.json", R"({"bos_token": "<none>"})");
  EXPECT_EQ(error(), (folder_ / "tokenizer.json").string() +
                         ": has no token \"<none>\", which tokenizer_config.json names as "
                         "bos_token");
  write("tokenizer_config.json", "{}");
  write("tokenizer.json", "{}");
  EXPECT_EQ(error(), (folder_ / "tokenizer.json").string() + ": model: must be an object");
  fs::remove(folder_ / "tokenizer.json");
  fs::create_directory(folder_ / "tokenizer.json");
  EXPECT_NE(error().find("tokenizer.json: is not a file"), std::string::npos);
}

}  // namespace
}  // namespace lorax

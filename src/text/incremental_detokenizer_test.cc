#include "text/incremental_detokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "text/testing/golden_cases.h"

namespace lorax {
namespace {

class IncrementalDetokenizerTest : public ::testing::Test {
 protected:
  // The texts that come for pieces given by name, then for the end.
  std::vector<std::string> stream(const std::vector<std::string>& pieces,
                                  bool skip_special_tokens) {
    IncrementalDetokenizer detokenizer(*tokenizer_, skip_special_tokens);
    std::vector<std::string> texts;
    for (const std::string& piece : pieces) {
      texts.push_back(detokenizer.push(tokenizer_->find_piece(piece).value()));
    }
    texts.push_back(detokenizer.finish());
    return texts;
  }

  using Texts = std::vector<std::string>;
  std::unique_ptr<Tokenizer> tokenizer_ =
      load_tokenizer_file(testing::kTextData / "small/tokenizer.json");
};

TEST_F(IncrementalDetokenizerTest, TextComesAtOnce) {
  EXPECT_EQ(stream({"A", "ll", "▁human", "\n"}, false), (Texts{"A", "ll", " human", "\n", ""}));
}

TEST_F(IncrementalDetokenizerTest, BytesComeWithWhatFollowsThem) {
  EXPECT_EQ(stream({"<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "A"}, false),
            (Texts{"", "", "", "", "😀A", ""}));
  EXPECT_EQ(stream({"<0xC3>", "<0xA9>"}, false), (Texts{"", "", "é"}));
}

TEST_F(IncrementalDetokenizerTest, ARunWithABadByteIsAllReplacements) {
  EXPECT_EQ(stream({"<0xC3>", "<0xA9>", "<0xC3>", "A"}, false),
            (Texts{"", "", "", "\uFFFD\uFFFD\uFFFDA", ""}));
  EXPECT_EQ(stream({"<0xC3>"}, false), (Texts{"", "\uFFFD"}));
}

TEST_F(IncrementalDetokenizerTest, SkippedTokensDoNotEndARun) {
  EXPECT_EQ(stream({"<0xC3>", "<bos>", "<0xA9>", "<unused0>"}, true),
            (Texts{"", "", "", "é<unused0>", ""}));
  EXPECT_EQ(stream({"<0xC3>", "<bos>", "<0xA9>"}, false), (Texts{"", "\uFFFD<bos>", "", "\uFFFD"}));
}

}  // namespace
}  // namespace lorax

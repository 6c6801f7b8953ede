// Which tokens a text leaves out: those that AutoTokenizer's decode(skip_special_tokens=True) of
// Transformers 5.24 leaves out for the same files, which the wanted lists were made with.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "formats/json_file.h"
#include "text/tokenizer.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

class SpecialTokensTest : public ::testing::Test {
 protected:
  using Edit = std::function<void(json::object&)>;

  void SetUp() override {
    const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("special_tokens_") + test.name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const char* name :
         {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}) {
      fs::copy_file(fs::path("models/tiny-gemma2") / name, folder_ / name);
    }
  }

  void edit(const std::string& name, const Edit& edit) {
    json::value value = parse_json(read_file(folder_ / name, 16 << 20), name);
    edit(value.as_object());
    std::ofstream(folder_ / name) << json::serialize(value);
  }
  // Of all added tokens of tokenizer.json.
  void set_special(bool special) {
    edit("tokenizer.json", [&](json::object& file) {
      for (json::value& token : file["added_tokens"].as_array()) {
        token.as_object()["special"] = special;
      }
    });
  }

  std::vector<int32_t> skipped() const {
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder_);
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      const std::vector<int32_t> one = {id};
      EXPECT_EQ(tokenizer->is_special(id),
                tokenizer->decode(one, true).empty() && !tokenizer->decode(one, false).empty())
          << id;
      if (tokenizer->is_special(id)) ids.push_back(id);
    }
    return ids;
  }

  fs::path folder_;
};

using Ids = std::vector<int32_t>;

TEST_F(SpecialTokensTest, AsShipped) { EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 4, 5, 6})); }

TEST_F(SpecialTokensTest, WhatTheConfigNamesIsSpecialWhateverTheTokenizerSays) {
  set_special(false);
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 4}));
  fs::remove(folder_ / "special_tokens_map.json");
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 4}));
  fs::remove(folder_ / "tokenizer_config.json");
  set_special(true);
  edit("tokenizer.json", [](json::object& file) {
    file["added_tokens"].as_array()[7].as_object()["special"] = false;
    file["added_tokens"].as_array()[8].as_object()["special"] = false;
  });
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 4, 5, 6}));
}

TEST_F(SpecialTokensTest, FurtherNames) {
  edit("tokenizer_config.json", [](json::object& config) {
    config["mask_token"] = "and";
    config["image_token"] = "of";
    config["extra_special_tokens"] = json::object{{"boi", "to"}};
  });
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 5, 6, 283, 394, 634}));
}

TEST_F(SpecialTokensTest, AdditionalOnes) {
  set_special(false);
  edit("special_tokens_map.json", [](json::object& map) {
    map["additional_special_tokens"] = json::array{"<start_of_turn>", "<end_of_turn>"};
  });
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 4}));
  edit("tokenizer_config.json", [](json::object& config) {
    config["added_tokens_decoder"] =
        json::object{{"5", json::object{{"content", "<start_of_turn>"}, {"special", true}}}};
  });
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 4, 5}));
  set_special(true);
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 4, 5}));
}

TEST_F(SpecialTokensTest, AKindWithoutAToken) {
  edit("tokenizer_config.json", [](json::object& config) { config["mask_token"] = nullptr; });
  EXPECT_EQ(skipped(), (Ids{0, 1, 2, 3, 5, 6}));
}

}  // namespace
}  // namespace lorax

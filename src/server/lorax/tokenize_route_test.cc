#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

using TokenizeTest = ApiTest;

// Ids, pieces and offsets are those of Hugging Face's tokenizers 0.22.
TEST_F(TokenizeTest, Golden) {
  EXPECT_EQ(post("/tokenize", R"({"inputs": "My name"})").body,
            R"([{"id":2,"text":"<bos>","start":0,"stop":0},)"
            R"({"id":1782,"text":"My","start":0,"stop":2},)"
            R"({"id":659,"text":"▁name","start":2,"stop":7}])");
  EXPECT_EQ(post("/tokenize", R"({"inputs": "é €\n\nc", "add_special_tokens": false})").body,
            R"([{"id":204,"text":"<0xC3>","start":0,"stop":1},)"
            R"({"id":178,"text":"<0xA9>","start":0,"stop":1},)"
            R"({"id":1982,"text":"▁","start":1,"stop":2},)"
            R"({"id":235,"text":"<0xE2>","start":2,"stop":3},)"
            R"({"id":139,"text":"<0x82>","start":2,"stop":3},)"
            R"({"id":181,"text":"<0xAC>","start":2,"stop":3},)"
            R"({"id":8,"text":"\n\n","start":3,"stop":5},)"
            R"({"id":1999,"text":"c","start":5,"stop":6}])");
  EXPECT_EQ(
      post("/tokenize", R"({"inputs": "日本<start_of_turn>user", "add_special_tokens": false})")
          .body,
      R"([{"id":239,"text":"<0xE6>","start":0,"stop":1},)"
      R"({"id":160,"text":"<0x97>","start":0,"stop":1},)"
      R"({"id":174,"text":"<0xA5>","start":0,"stop":1},)"
      R"({"id":239,"text":"<0xE6>","start":1,"stop":2},)"
      R"({"id":165,"text":"<0x9C>","start":1,"stop":2},)"
      R"({"id":181,"text":"<0xAC>","start":1,"stop":2},)"
      R"({"id":5,"text":"<start_of_turn>","start":2,"stop":17},)"
      R"({"id":420,"text":"us","start":17,"stop":19},)"
      R"({"id":275,"text":"er","start":19,"stop":21}])");
}

TEST_F(TokenizeTest, EmptyText) {
  EXPECT_EQ(post("/tokenize", R"({"inputs": ""})").body,
            R"([{"id":2,"text":"<bos>","start":0,"stop":0}])");
  EXPECT_EQ(post("/tokenize", R"({"inputs": "", "add_special_tokens": false})").body, "[]");
}

TEST_F(TokenizeTest, Errors) {
  expect_lorax_error(post("/tokenize", "{}"), 422, "validation", "`inputs` is missing");
  expect_lorax_error(post("/tokenize", R"({"inputs": ["a"]})"), 422, "validation", "a string");
  expect_lorax_error(post("/tokenize", R"({"inputs": "a", "add_special_tokens": "yes"})"), 422,
                     "validation", "true or false");
  expect_lorax_error(post("/tokenize", "x"), 400, "bad_request", "not valid JSON");
}

}  // namespace
}  // namespace lorax

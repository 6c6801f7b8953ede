#include "text/vocabulary.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/error.h"

namespace lorax {
namespace {

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string name_of(int32_t id) { return fmt::format("p{}", id); }

TEST(VocabularyTest, FindsWhatWasAdded) {
  Vocabulary vocabulary;
  EXPECT_EQ(vocabulary.find("a"), Vocabulary::kNone);
  for (int32_t id = 0; id < 1000; ++id) vocabulary.add(name_of(id), 2 * id, "file");
  EXPECT_EQ(vocabulary.size(), 1999);
  for (int32_t id = 0; id < 1000; ++id) {
    EXPECT_EQ(vocabulary.find(name_of(id)), 2 * id);
    EXPECT_EQ(vocabulary.piece(2 * id), name_of(id));
    EXPECT_EQ(vocabulary.piece(2 * id + 1), "");
  }
  EXPECT_EQ(vocabulary.find("p"), Vocabulary::kNone);
  EXPECT_EQ(vocabulary.piece(-1), "");
  EXPECT_EQ(vocabulary.piece(5000), "");
}

TEST(VocabularyTest, RefusesContradictions) {
  Vocabulary vocabulary;
  vocabulary.add("a", 0, "file");
  const auto add = [&](std::string_view piece, int32_t id) {
    return error_of([&] { vocabulary.add(piece, id, "file"); });
  };
  EXPECT_EQ(add("b", 0), "file: the tokens \"a\" and \"b\" have one id, 0");
  EXPECT_EQ(add("a", 1), "file: the token \"a\" has two ids, 0 and 1");
  EXPECT_EQ(add("", 1), "file: the token with the id 1 is empty");
  EXPECT_EQ(add("b\n", -1),
            "file: the token \"b\\x0a\" has the id -1; ids must lie from 0 to 4194303");
  EXPECT_EQ(add("b", Vocabulary::kMaxSize),
            "file: the token \"b\" has the id 4194304; ids must lie from 0 to 4194303");
  EXPECT_EQ(vocabulary.find("b"), Vocabulary::kNone);
}

}  // namespace
}  // namespace lorax

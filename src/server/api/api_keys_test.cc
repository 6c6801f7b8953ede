#include "server/api/api_keys.h"

#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

class ApiKeysTest : public TestWithDirectory {
 protected:
  size_t load(std::string_view text) { return keys_.load(write_text("keys.json", text)); }
  std::string error(std::string_view text) {
    return error_of([&] { load(text); });
  }
  std::string name_of(std::string_view key) const {
    const auto tenant = keys_.find(key);
    return tenant == nullptr ? "nobody" : tenant->name;
  }

  ApiKeys keys_{"flag"};
};

TEST_F(ApiKeysTest, TheFlagsKey) {
  EXPECT_EQ(name_of("flag"), "");
  EXPECT_EQ(name_of("Flag"), "nobody");
  EXPECT_EQ(name_of(""), "nobody");
  EXPECT_FALSE(keys_.empty());
  EXPECT_TRUE(keys_.find("flag")->sees_all_adapters());
  EXPECT_TRUE(ApiKeys().empty());
  EXPECT_EQ(ApiKeys().find(""), nullptr);
  for (const char* bad : {" ", "a b", "a\n", "\x7f"}) {
    EXPECT_THROW(ApiKeys{bad}, Error) << bad;
  }
}

TEST_F(ApiKeysTest, AFileOfKeys) {
  EXPECT_EQ(load(R"({"keys": [
    {"name": "alice", "key": "sk-1", "adapters": ["pirate", "team/*"],
     "max_concurrent_requests": 8, "max_tokens_per_minute": 60000},
    {"name": "bob", "key_sha256":
     "88D4266FD4E6338D13B845FCF289579D209C897823B9217DA3E161936F031589"}]})"),
            3u);
  const auto alice = keys_.find("sk-1");
  ASSERT_NE(alice, nullptr);
  EXPECT_EQ(alice->name, "alice");
  EXPECT_EQ(alice->adapters, (std::vector<std::string>{"pirate", "team/*"}));
  EXPECT_EQ(alice->limits.max_concurrent_requests, 8);
  EXPECT_EQ(alice->limits.max_tokens_per_minute, 60000);
  EXPECT_EQ(name_of("abcd"), "bob");
  EXPECT_TRUE(keys_.find("abcd")->sees_all_adapters());
  EXPECT_EQ(name_of("flag"), "");
  EXPECT_EQ(name_of("sk-2"), "nobody");
}

TEST_F(ApiKeysTest, ANewFileReplacesTheOldOneAndUsageGoesOn) {
  load(R"({"keys": [{"name": "alice", "key": "one"}, {"name": "bob", "key": "b"}]})");
  const auto before = keys_.find("one");
  EXPECT_FALSE(before->usage->try_begin(2, {}, {}));
  load(R"({"keys": [{"name": "alice", "key": "two", "max_concurrent_requests": 2}]})");
  EXPECT_EQ(name_of("one"), "nobody");
  EXPECT_EQ(name_of("b"), "nobody");
  EXPECT_EQ(keys_.find("two")->usage->running(), 2);
  EXPECT_EQ(before->limits.max_concurrent_requests, 0) << "of requests that run";
  EXPECT_EQ(name_of("flag"), "");
}

// As a whole, in one line that repeats no key.
TEST_F(ApiKeysTest, FilesThatAreNotRightChangeNothing) {
  load(R"({"keys": [{"name": "alice", "key": "one"}]})");
  const std::string start = R"({"keys": [{"name": "a", "key": "k-1"}, )";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not valid JSON"},
      {"[]", "must be an object of one list"},
      {R"({"keys": {}})", "must be an object of one list"},
      {R"({"keys": [], "more": 1})", "must be an object of one list"},
      {R"({"keys": []})", "at least one"},
      {start + "5]}", "keys[1]: must be an object"},
      {start + R"({"key": "k-2"}]})", "keys[1]: name is missing"},
      {start + R"({"name": "b"}]})", "keys[1]: key is missing"},
      {start + R"({"name": "", "key": "k-2"}]})", "name must be"},
      {start + R"({"name": "a b", "key": "k-2"}]})", "name must be"},
      {start + R"({"name": "a", "key": "k-2"}]})", "\"a\" stands twice"},
      {start + R"({"name": "b", "key": "k-1"}]})", "the key is also that of a"},
      {start + R"({"name": "b", "key": "flag"}]})", "the key is also that of --api-key"},
      {start + R"({"name": "b", "key": ""}]})", "key must be visible ASCII"},
      {start + R"({"name": "b", "key": "k 2"}]})", "key must be visible ASCII"},
      {start + R"({"name": "b", "key": 5}]})", "key must be visible ASCII"},
      {start + R"({"name": "b", "key_sha256": "k-2"}]})", "64 hexadecimal digits"},
      {start + R"({"name": "b", "key": "k-2", "key_sha256": "k-2"}]})", "has both"},
      {start + R"({"name": "b", "key": "k-2", "adapters": "x"}]})", "adapters must be a list"},
      {start + R"({"name": "b", "key": "k-2", "adapters": [""]}]})", "adapters must be a list"},
      {start + R"({"name": "b", "key": "k-2", "max_concurrent_requests": 0}]})", "at least 1"},
      {start + R"({"name": "b", "key": "k-2", "max_tokens_per_minute": 1.5}]})", "at least 1"},
      {start + R"({"name": "b", "key": "k-2", "adaptors": []}]})", "adaptors is no field"},
  };
  for (const auto& [text, part] : cases) {
    const std::string message = error(text);
    expect_error(message, (directory_ / "keys.json").string() + ":", part);
    EXPECT_EQ(message.find("k-"), std::string::npos) << message;
    EXPECT_EQ(name_of("one"), "alice") << text;
    EXPECT_EQ(name_of("k-1"), "nobody") << text;
  }
  expect_error(error_of([&] { keys_.load(directory_ / "none"); }), directory_.string(),
               "no such file");
}

}  // namespace
}  // namespace lorax

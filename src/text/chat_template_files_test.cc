#include "text/chat_template_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class ChatTemplateFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("chat_template_files_" + std::to_string(getpid()));
    fs::create_directories(folder_ / "additional_chat_templates");
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name) << text;
  }
  static std::string text_of(const ChatTemplate* found) {
    return found == nullptr ? "none" : found->render({});
  }

  fs::path folder_;
};

TEST_F(ChatTemplateFilesTest, ReadsAStringOfTheConfig) {
  EXPECT_TRUE(load_chat_templates(folder_).empty());
  write("tokenizer_config.json", R"({"bos_token": "<bos>"})");
  EXPECT_TRUE(load_chat_templates(folder_).empty());
  write("tokenizer_config.json", R"({"chat_template": "config"})");
  EXPECT_EQ(text_of(load_chat_templates(folder_).choose(false)), "config");
}

TEST_F(ChatTemplateFilesTest, ReadsAListOfTheConfig) {
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "plain"},
      {"name": "tool_use", "template": "tools"}, {"name": "rag", "template": "documents"}]})");
  const ChatTemplates templates = load_chat_templates(folder_);
  EXPECT_EQ(text_of(templates.choose(false)), "plain");
  EXPECT_EQ(text_of(templates.choose(true)), "tools");
  EXPECT_EQ(text_of(templates.find("rag")), "documents");
  EXPECT_EQ(templates.find("nope"), nullptr);
  EXPECT_EQ(templates.names(), (std::vector<std::string>{"default", "rag", "tool_use"}));
}

TEST_F(ChatTemplateFilesTest, PrefersFiles) {
  write("tokenizer_config.json", R"({"chat_template": "config"})");
  write("chat_template.jinja", "file\n");
  EXPECT_EQ(text_of(load_chat_templates(folder_).choose(true)), "file");
  write("additional_chat_templates/tool_use.jinja", "more");
  EXPECT_EQ(text_of(load_chat_templates(folder_).choose(true)), "more");
  EXPECT_EQ(text_of(load_chat_templates(folder_).choose(false)), "file");
}

TEST_F(ChatTemplateFilesTest, NamesTheFileOfABadTemplate) {
  const auto error = [this]() -> std::string {
    try {
      load_chat_templates(folder_);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string config = (folder_ / "tokenizer_config.json").string();
  write("tokenizer_config.json", R"({"chat_template": "\n{{ x | nope }}"})");
  EXPECT_EQ(error(), config + ": chat_template: line 2: the filter \"nope\" is not known");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "{% x %}"}]})");
  EXPECT_EQ(error(), config +
                         ": chat_template[0] \"rag\": line 1: the tag \"x\" is not known or "
                         "stands in the wrong place");
  write("tokenizer_config.json", R"({"chat_template": 1})");
  EXPECT_EQ(error(), config + ": chat_template: must be an array");
  write("chat_template.jinja", "{{");
  EXPECT_EQ(error(), (folder_ / "chat_template.jinja").string() + ": line 1: a tag has no end, }}");
}

}  // namespace
}  // namespace lorax

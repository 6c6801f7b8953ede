// The chat templates that stand beside a tokenizer, or in an adapter's folder.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/folder.h"
#include "text/chat_template.h"

namespace lorax {

// By name. Most models have one, "default"; some add "tool_use" or "rag".
class ChatTemplates {
 public:
  bool empty() const { return templates_.empty(); }
  std::vector<std::string> names() const;
  // Null if there is none of the name.
  const ChatTemplate* find(std::string_view name) const;
  // As transformers chooses: "tool_use" for a conversation with tools if there is one, else
  // "default". Null if there is none.
  const ChatTemplate* choose(bool has_tools) const;

  // Of all of them.
  size_t text_bytes() const;

  void add(std::string name, ChatTemplate chat_template);

 private:
  std::map<std::string, ChatTemplate, std::less<>> templates_;
};

// From chat_template.jinja and additional_chat_templates/*.jinja of the folder, or, if it has
// neither, from "chat_template" of its tokenizer_config.json, which is a string or a list of
// {"name", "template"}. Empty if there is none. Throws Error that names the file and what in it
// cannot be read or rendered.
ChatTemplates load_chat_templates(const Folder& folder);
ChatTemplates load_chat_templates(const std::filesystem::path& folder);

// Those of one file: a *.jinja, or a tokenizer_config.json. Throws Error likewise, and if it holds
// none.
ChatTemplates load_chat_template_file(const std::filesystem::path& file);

}  // namespace lorax

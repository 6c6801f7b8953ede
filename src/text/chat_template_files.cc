#include "text/chat_template_files.h"

#include <utility>

#include <fmt/format.h>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "base/quote_token.h"
#include "text/json_fields.h"
#include "text/text_file.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

ChatTemplate parse_file(const Folder& folder, const std::string& name) {
  return ChatTemplate::parse(read_text_file(folder, name), (folder.path() / name).string());
}

ChatTemplates templates_of_files(const Folder& folder) {
  constexpr const char* kDefault = "chat_template.jinja";
  constexpr const char* kMore = "additional_chat_templates";
  ChatTemplates templates;
  if (folder.has(kDefault)) templates.add("default", parse_file(folder, kDefault));
  if (!folder.has(kMore)) return templates;
  const Folder more = folder.subfolder(kMore);
  for (const std::string& name : more.names()) {
    const fs::path file(name);
    if (file.extension() == ".jinja") templates.add(file.stem().string(), parse_file(more, name));
  }
  return templates;
}

ChatTemplates templates_of_config(const std::string& text, const fs::path& file) {
  const boost::json::value value = parse_tokenizer_json(text, file.string());
  const JsonField field = JsonField(value, file.string() + ":")["chat_template"];
  ChatTemplates templates;
  if (field.is_null()) return templates;
  if (field.is_string()) {
    templates.add("default", ChatTemplate::parse(field.string(), field.where()));
    return templates;
  }
  for (size_t i = 0; i < field.array().size(); ++i) {
    const JsonField item = field[i];
    const std::string name(item["name"].string());
    templates.add(name, ChatTemplate::parse(item["template"].string(),
                                            fmt::format("{} {}", item.where(), quote_token(name))));
  }
  return templates;
}

}  // namespace

std::vector<std::string> ChatTemplates::names() const {
  std::vector<std::string> names;
  for (const auto& entry : templates_) names.push_back(entry.first);
  return names;
}

const ChatTemplate* ChatTemplates::find(std::string_view name) const {
  const auto found = templates_.find(name);
  return found == templates_.end() ? nullptr : &found->second;
}

const ChatTemplate* ChatTemplates::choose(bool has_tools) const {
  const ChatTemplate* with_tools = has_tools ? find("tool_use") : nullptr;
  return with_tools != nullptr ? with_tools : find("default");
}

size_t ChatTemplates::text_bytes() const {
  size_t bytes = 0;
  for (const auto& entry : templates_) bytes += entry.second.text_bytes();
  return bytes;
}

void ChatTemplates::add(std::string name, ChatTemplate chat_template) {
  templates_.insert_or_assign(std::move(name), std::move(chat_template));
}

ChatTemplates load_chat_templates(const Folder& folder) {
  constexpr const char* kConfig = "tokenizer_config.json";
  ChatTemplates templates = templates_of_files(folder);
  if (!templates.empty() || !folder.has(kConfig)) return templates;
  return templates_of_config(read_text_file(folder, kConfig), folder.path() / kConfig);
}

ChatTemplates load_chat_templates(const fs::path& folder) {
  return load_chat_templates(Folder::open(folder));
}

ChatTemplates load_chat_template_file(const fs::path& file) {
  const std::string text = read_text_file(file);
  ChatTemplates templates;
  if (file.extension() == ".jinja") {
    templates.add("default", ChatTemplate::parse(text, file.string()));
  } else {
    templates = templates_of_config(text, file);
    if (templates.empty()) fail("{}: holds no chat_template", file.string());
  }
  return templates;
}

}  // namespace lorax

#include "text/chat_template_files.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "text/json_fields.h"
#include "text/quote_token.h"
#include "text/text_file.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

ChatTemplate parse_file(const fs::path& file) {
  return ChatTemplate::parse(read_text_file(file), file.string());
}

// The *.jinja of a folder, in order.
std::vector<fs::path> template_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".jinja") files.push_back(entry.path());
  }
  if (error) fail("{}: cannot be read: {}", folder.string(), error.message());
  std::ranges::sort(files);
  return files;
}

ChatTemplates templates_of_files(const fs::path& folder) {
  ChatTemplates templates;
  if (const fs::path file = folder / "chat_template.jinja"; file_is_there(file)) {
    templates.add("default", parse_file(file));
  }
  if (const fs::path more = folder / "additional_chat_templates"; file_is_there(more)) {
    for (const fs::path& file : template_files(more)) {
      templates.add(file.stem().string(), parse_file(file));
    }
  }
  return templates;
}

ChatTemplates templates_of_config(const fs::path& file) {
  const boost::json::value value = parse_tokenizer_json(read_text_file(file), file.string());
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

void ChatTemplates::add(std::string name, ChatTemplate chat_template) {
  templates_.insert_or_assign(std::move(name), std::move(chat_template));
}

ChatTemplates load_chat_templates(const fs::path& folder) {
  ChatTemplates templates = templates_of_files(folder);
  const fs::path config = folder / "tokenizer_config.json";
  if (!templates.empty() || !file_is_there(config)) return templates;
  return templates_of_config(config);
}

ChatTemplates load_chat_template_file(const fs::path& file) {
  if (file.extension() != ".jinja") {
    ChatTemplates templates = templates_of_config(file);
    if (templates.empty()) fail("{}: holds no chat_template", file.string());
    return templates;
  }
  ChatTemplates templates;
  templates.add("default", parse_file(file));
  return templates;
}

}  // namespace lorax

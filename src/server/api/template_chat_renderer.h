// Chats rendered by the templates of the model's and of the adapters' folders.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "formats/folder.h"
#include "server/api/chat_renderer.h"
#include "text/chat_formatter.h"
#include "text/chat_template_files.h"
#include "text/tokenizer.h"

namespace lorax {

class TemplateChatRenderer final : public ChatRenderer {
 public:
  // `base`: the base model's; without one, render() says so. `bounds`: where the files of adapters
  // may lie. The tokenizer must outlive this.
  TemplateChatRenderer(ChatTemplates base, const Tokenizer& tokenizer,
                       ChatFormatter::Options options, FileBounds bounds = {});
  ~TemplateChatRenderer() override;

  std::string render(const Conversation& conversation, const std::string& adapter) const override;
  bool reads(std::string_view variable, const std::string& adapter) const override;

 private:
  struct Loaded;

  // The template of an adapter's folder, null if it has none. A file that has changed since is read
  // anew.
  std::shared_ptr<const Loaded> find(const std::string& adapter) const;
  // The adapter's if it has a template of its own, else the base model's.
  std::shared_ptr<const Loaded> choose(const std::string& adapter) const;

  const Tokenizer& tokenizer_;
  const ChatFormatter::Options options_;
  const FileBounds bounds_;
  std::shared_ptr<const Loaded> base_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, std::shared_ptr<const Loaded>> adapters_;  // guarded by mutex_
  mutable size_t kept_bytes_ = 0;  // of their texts; guarded by mutex_
};

}  // namespace lorax

// What a server does around a chat template so that every client's messages fit: a template that
// refuses system messages gets them in the first user's turn, and one that knows no typed parts
// gets their text.
#pragma once

#include <string>

#include "text/chat_template.h"

namespace lorax {

// Immutable; all methods are thread-safe.
class ChatFormatter {
 public:
  struct Options {
    // Off: a template's refusal of system messages stands.
    bool fold_system = true;
  };

  // Finds out by rendering small conversations what the template takes. It must outlive this.
  ChatFormatter(const ChatTemplate& chat_template, Options options);

  bool takes_system() const { return takes_system_; }
  bool takes_parts() const { return takes_parts_; }

  // The prompt. Where the template refuses system messages, those at the start are put before the
  // text of the first user's message, with an empty line behind each. Where it takes no typed
  // parts, the texts of a content's parts are joined; throws TemplateError for parts that are no
  // text. Else throws as ChatTemplate::render.
  std::string render(ChatInput input) const;

 private:
  const ChatTemplate& template_;
  Options options_;
  bool takes_system_ = true;
  bool takes_parts_ = false;
};

}  // namespace lorax

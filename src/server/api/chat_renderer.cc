#include "server/api/chat_renderer.h"

#include "base/error.h"
#include "server/api/api_error.h"

namespace lorax {

std::string render_chat(const ChatRenderer& chat, const Conversation& conversation,
                        const std::string& adapter) {
  try {
    return chat.render(conversation, adapter);
  } catch (const Error& error) {
    throw ApiError(ErrorKind::kTemplate, error.what(), "messages");
  }
}

}  // namespace lorax

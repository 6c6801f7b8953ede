// The text that a chat is for the model.
#pragma once

#include <string>

#include <boost/json/array.hpp>

namespace lorax {

// All functions may be called from any thread.
class ChatRenderer {
 public:
  virtual ~ChatRenderer() = default;

  // The prompt of the messages (objects with "role" and "content", as in OpenAI's API) by the
  // template of the adapter (a store's id; "" for the base model), which is the base model's unless
  // the adapter brings its own. It ends where the assistant's answer begins, and holds the special
  // tokens, bos included, that it needs. Throws Error that says what the template refuses, or that
  // there is none.
  virtual std::string render(const boost::json::array& messages,
                             const std::string& adapter) const = 0;
};

// The same; what the template refuses is an ApiError.
std::string render_chat(const ChatRenderer& chat, const boost::json::array& messages,
                        const std::string& adapter);

}  // namespace lorax

// The text that a chat is for the model.
#pragma once

#include <string>
#include <string_view>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

namespace lorax {

// What a template is given.
struct Conversation {
  boost::json::array messages;  // objects with "role" and "content", as in OpenAI's API
  bool add_generation_prompt = true;
  boost::json::object variables;  // more of them, which go before those of the server
};

// All functions may be called from any thread.
class ChatRenderer {
 public:
  virtual ~ChatRenderer() = default;

  // The prompt by the template of the adapter (a store's id; "" for the base model), which is the
  // base model's unless the adapter brings its own. With add_generation_prompt it ends where the
  // assistant's answer begins. It holds the special tokens, bos included, that it needs. Throws
  // Error that says what the template refuses, or that there is none.
  virtual std::string render(const Conversation& conversation,
                             const std::string& adapter) const = 0;
  // Whether that template reads a variable.
  virtual bool reads(std::string_view variable, const std::string& adapter) const = 0;
};

// The same; what the template refuses is an ApiError.
std::string render_chat(const ChatRenderer& chat, const Conversation& conversation,
                        const std::string& adapter);

}  // namespace lorax

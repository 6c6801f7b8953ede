#include "server/openai/chat_response.h"

#include <utility>

#include "server/api/token_offsets.h"

namespace lorax {
namespace {

constexpr std::string_view kChunk = "chat.completion.chunk";

// The fields of a token inside of an object that is open. `bytes` tells what `token` cannot show:
// the byte of a token that is a part of a code point.
void write_token_fields(JsonWriter& json, const Tokenizer& tokenizer, int32_t id,
                        const std::string& text, float logprob) {
  json.field("token", text);
  json.field("logprob", finite_logprob(logprob));
  json.key("bytes").begin_array();
  if (const std::optional<unsigned char> byte = byte_of_piece(tokenizer.piece(id))) {
    json.value(static_cast<int>(*byte));
  } else {
    for (const char byte : text) json.value(static_cast<int>(static_cast<unsigned char>(byte)));
  }
  json.end_array();
}

void write_logprob(JsonWriter& json, const Tokenizer& tokenizer, const TokenInfo& token) {
  json.begin_object();
  write_token_fields(json, tokenizer, token.id, token.text, token.logprob);
  json.key("top_logprobs").begin_array();
  for (const TokenAlternative& alternative : token.alternatives) {
    json.begin_object();
    write_token_fields(json, tokenizer, alternative.id, alternative.text, alternative.logprob);
    json.end_object();
  }
  json.end_array();
  json.end_object();
}

void begin_logprobs(JsonWriter& json) {
  json.key("logprobs").begin_object().key("content").begin_array();
}
void end_logprobs(JsonWriter& json) { json.end_array().null_field("refusal").end_object(); }

void write_choice(JsonWriter& json, const ChatAnswer& answer, const Generation& generation,
                  int64_t index) {
  json.begin_object();
  json.field("index", index);
  json.key("message").begin_object();
  json.field("role", "assistant");
  json.field("content", generation.text);
  json.null_field("refusal");
  json.end_object();
  if (answer.has_logprobs) {
    begin_logprobs(json);
    for (const GeneratedToken& token : generation.tokens)
      write_logprob(json, *answer.tokenizer, token.token);
    end_logprobs(json);
  } else {
    json.null_field("logprobs");
  }
  json.field("finish_reason", openai_reason(generation.end.reason));
  json.end_object();
}

class ChatEvents final : public EventFormat {
 public:
  explicit ChatEvents(ChatAnswer answer) : answer_(std::move(answer)) {}

  std::string opening() override {
    std::string events;
    for (int64_t i = 0; i < answer_.choices; ++i) {
      JsonWriter json;
      begin_delta(json, static_cast<size_t>(i));
      json.field("role", "assistant").field("content", "").end_object();
      events += end_delta(json, nullptr, nullptr);
    }
    return events;
  }

  std::string prompt(size_t, std::vector<TokenInfo>) override { return ""; }

  std::string token(size_t index, GeneratedToken token) override {
    if (token.delta.empty() && !answer_.has_logprobs) return "";
    return text_chunk(index, token.delta, &token.token);
  }

  std::string end(size_t index, const GenerationEnd& end) override {
    usage_.add(end, index, answer_.candidates);
    std::string events;
    if (!end.delta.empty()) events = text_chunk(index, end.delta, nullptr);
    JsonWriter json;
    begin_delta(json, index);
    json.end_object();
    return events + end_delta(json, nullptr, &end);
  }

  std::string closing(const RequestReport&) override {
    return closing_events(answer_, kChunk, usage_);
  }

 private:
  std::string text_chunk(size_t index, const std::string& text, const TokenInfo* token) const {
    JsonWriter json;
    begin_delta(json, index);
    json.field("content", text).end_object();
    return end_delta(json, token, nullptr);
  }

  // Up to the inside of the delta.
  void begin_delta(JsonWriter& json, size_t index) const {
    begin_chunk(json, answer_, kChunk, index);
    json.key("delta").begin_object();
  }

  // From behind the delta.
  std::string end_delta(JsonWriter& json, const TokenInfo* token, const GenerationEnd* end) const {
    if (answer_.has_logprobs && token != nullptr) {
      begin_logprobs(json);
      write_logprob(json, *answer_.tokenizer, *token);
      end_logprobs(json);
    } else {
      json.null_field("logprobs");
    }
    return end_chunk(json, answer_, end);
  }

  ChatAnswer answer_;
  Usage usage_;
};

}  // namespace

ChatAnswer chat_answer(const ApiContext& context, const ChatPlan& plan, bool include_usage) {
  ChatAnswer answer;
  static_cast<OpenAiAnswer&>(answer) = openai_answer(context, plan, "chatcmpl", include_usage);
  answer.tokenizer = &context.tokenizer;
  answer.has_logprobs = plan.has_logprobs;
  return answer;
}

HttpResponse chat_response(const ChatAnswer& answer, Headers headers,
                           std::vector<Generation>& generations, const RequestReport& report) {
  JsonWriter json;
  begin_answer(json, answer, "chat.completion");
  json.key("choices").begin_array();
  Usage usage;
  for (size_t i = 0; i < generations.size(); ++i) {
    write_choice(json, answer, generations[i], static_cast<int64_t>(i));
    usage.add(generations[i].end, i, answer.candidates);
  }
  json.end_array();
  write_prompt_logprobs(json, answer, generations.front().prompt);
  return end_answer(json, usage, std::move(headers), generations, report);
}

std::unique_ptr<EventFormat> chat_events(ChatAnswer answer) {
  return std::make_unique<ChatEvents>(std::move(answer));
}

}  // namespace lorax

#include "server/lorax/generate_response.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <optional>
#include <utility>

#include "formats/json_writer.h"
#include "server/api/api_route.h"
#include "server/api/token_texts.h"
#include "server/http/sse.h"

namespace lorax {
namespace {

void write_token(JsonWriter& json, const TokenInfo& token, const std::string& text,
                 bool with_alternatives) {
  json.begin_object();
  json.field("id", token.id);
  json.field("text", text);
  json.field("logprob", token.logprob);
  json.field("special", token.special);
  if (with_alternatives) {
    json.key("alternative_tokens").begin_array();
    for (const TokenAlternative& alternative : token.alternatives) {
      json.begin_object();
      json.field("id", alternative.id);
      json.field("text", alternative.text);
      json.field("logprob", alternative.logprob);
      json.end_object();
    }
    json.end_array();
  }
  json.field("skipped", false);
  json.end_object();
}

// LoRAX's text has the stop string at its end.
std::string text_of(const GenerateAnswer& answer, const std::string& text,
                    const GenerationEnd& end) {
  return (answer.return_full_text ? answer.inputs : "") + text + end.stop_sequence;
}

// Cuts the texts of a text's last tokens, which may go on behind a stop string: `left` bytes are to
// come.
std::string take_text(const TokenInfo& token, std::string text, size_t& left) {
  if (token.special) return text;
  text.resize(std::min(text.size(), left));
  left -= text.size();
  return text;
}

// Of each token what it adds to the generated text.
std::vector<std::string> texts_of(const GenerateAnswer& answer, const Generation& generation) {
  TokenTexts certain(*answer.tokenizer);
  std::vector<std::string> texts;
  const auto add = [&](std::vector<std::string> more) {
    for (std::string& text : more) {
      texts.push_back(std::move(text));
    }
  };
  for (const GeneratedToken& token : generation.tokens) add(certain.push(token.token));
  add(certain.finish());
  size_t left = generation.text.size() + generation.end.stop_sequence.size();
  for (size_t i = 0; i < texts.size(); ++i) {
    texts[i] = take_text(generation.tokens[i].token, std::move(texts[i]), left);
  }
  return texts;
}

void write_seed(JsonWriter& json, const GenerateAnswer& answer, size_t index) {
  json.key("seed");
  answer.seeds.empty() ? json.null() : json.value(answer.seeds[index]);
}

void write_tokens(JsonWriter& json, const GenerateAnswer& answer, const Generation& generation) {
  json.key("prefill").begin_array();
  for (const TokenInfo& token : generation.prompt) {
    json.begin_object();
    json.field("id", token.id);
    json.field("text", token.text);
    json.field("logprob", token.logprob);
    json.end_object();
  }
  json.end_array();
  json.key("tokens").begin_array();
  const std::vector<std::string> texts = texts_of(answer, generation);
  for (size_t i = 0; i < generation.tokens.size(); ++i) {
    write_token(json, generation.tokens[i].token, texts[i], answer.alternatives > 0);
  }
  json.end_array();
}

// One of the texts that best_of did not choose.
void write_sequence(JsonWriter& json, const GenerateAnswer& answer, const Generation& generation,
                    size_t index) {
  json.begin_object();
  json.field("generated_text", text_of(answer, generation.text, generation.end));
  json.field("finish_reason", name_of(generation.end.reason));
  json.field("generated_tokens", generation.end.generated_tokens);
  write_seed(json, answer, index);
  write_tokens(json, answer, generation);
  json.end_object();
}

void write_details(JsonWriter& json, const GenerateAnswer& answer,
                   const std::vector<Generation>& generations, size_t best) {
  const Generation& generation = generations[best];
  json.key("details").begin_object();
  json.field("finish_reason", name_of(generation.end.reason));
  json.field("prompt_tokens", generation.end.prompt_tokens);
  json.field("generated_tokens", generation.end.generated_tokens);
  json.field("skipped_tokens", 0);
  write_seed(json, answer, best);
  write_tokens(json, answer, generation);
  if (generations.size() > 1) {
    json.key("best_of_sequences").begin_array();
    for (size_t i = 0; i < generations.size(); ++i) {
      if (i != best) write_sequence(json, answer, generations[i], i);
    }
    json.end_array();
  }
  json.end_object();
}

size_t index_of_best(const std::vector<Generation>& generations) {
  size_t best = 0;
  for (size_t i = 1; i < generations.size(); ++i) {
    if (generations[i].mean_logprob() > generations[best].mean_logprob()) best = i;
  }
  return best;
}

// An event goes out once its text is certain: the tokens' texts together are the generated text, of
// which bytes and what may turn out to be a stop string are not, and the last token's event has the
// whole of it.
class GenerateEvents final : public EventFormat {
 public:
  explicit GenerateEvents(GenerateAnswer answer)
      : answer_(std::move(answer)), texts_(*answer_.tokenizer) {}

  std::string prompt(size_t, std::vector<TokenInfo>) override { return ""; }

  std::string token(size_t, GeneratedToken token) override {
    text_ += token.delta;
    ++tokens_;
    const bool may_be_last = is_last(token.token);
    const TokenInfo& newest = held_.emplace_back(Held{std::move(token.token), std::nullopt}).token;
    set_texts(texts_.push(newest));
    std::string events;
    while (held_.size() > size_t{may_be_last} && is_certain(held_.front())) events += release();
    return events;
  }

  std::string end(size_t, const GenerationEnd& end) override {
    text_ += end.delta;
    set_texts(texts_.finish());
    if (held_.empty()) held_.push_back({no_token(), ""});
    size_t left = text_.size() + end.stop_sequence.size() - released_;
    std::string events;
    for (size_t i = 0; i < held_.size(); ++i) {
      Held& held = held_[i];
      held.text = take_text(held.token, std::move(*held.text), left);
      events += event(held, i + 1 == held_.size() ? &end : nullptr);
    }
    return events;
  }

  std::string closing(const RequestReport&) override { return ""; }

  std::string interruption() override {
    set_texts(texts_.finish());
    std::string events;
    while (!held_.empty()) events += release();
    return events;
  }

 private:
  // A token whose event has not gone out.
  struct Held {
    TokenInfo token;
    std::optional<std::string> text;
  };

  // For an end that comes without a token.
  static TokenInfo no_token() {
    TokenInfo token;
    token.id = -1;
    token.special = true;
    return token;
  }

  // Of the oldest tokens that have none.
  void set_texts(std::vector<std::string> texts) {
    auto held = std::ranges::find_if(held_, [](const Held& each) { return !each.text; });
    for (std::string& text : texts) (held++)->text = std::move(text);
  }

  bool is_last(const TokenInfo& token) const {
    const std::vector<int32_t>& eos = answer_.eos_token_ids;
    return tokens_ >= answer_.max_new_tokens || std::ranges::find(eos, token.id) != eos.end();
  }

  // The engine holds text back that may belong to a stop string.
  bool is_certain(const Held& held) const {
    return held.text && (held.token.special || released_ + held.text->size() <= text_.size());
  }

  std::string release() {
    const Held held = std::move(held_.front());
    held_.pop_front();
    if (!held.token.special) released_ += held.text->size();
    return event(held, nullptr);
  }

  std::string event(const Held& held, const GenerationEnd* end) {
    JsonWriter json;
    json.begin_object();
    json.key("token");
    write_token(json, held.token, *held.text, answer_.alternatives > 0);
    if (end == nullptr) {
      json.null_field("generated_text");
      json.null_field("details");
    } else {
      json.field("generated_text", text_of(answer_, text_, *end));
      json.key("details");
      answer_.details ? write_stream_details(json, *end) : static_cast<void>(json.null());
    }
    json.end_object();
    return sse_event(json.take());
  }

  void write_stream_details(JsonWriter& json, const GenerationEnd& end) const {
    json.begin_object();
    json.field("finish_reason", name_of(end.reason));
    json.field("prompt_tokens", end.prompt_tokens);
    json.field("generated_tokens", end.generated_tokens);
    write_seed(json, answer_, 0);
    json.end_object();
  }

  GenerateAnswer answer_;
  TokenTexts texts_;
  std::string text_;     // without what the engine holds back
  size_t released_ = 0;  // bytes of it that have gone out
  int64_t tokens_ = 0;
  std::deque<Held> held_;
};

}  // namespace

GenerateAnswer answer_of(const ApiContext& context, const GeneratePlan& plan, bool as_array) {
  const GenerationRequest& request = plan.generations.front();
  GenerateAnswer answer;
  answer.tokenizer = &context.tokenizer;
  answer.inputs = plan.inputs;
  answer.adapter = plan.adapter;
  if (plan.samples) {
    for (const GenerationRequest& each : plan.generations) {
      answer.seeds.push_back(each.sampling.seed);
    }
  }
  answer.eos_token_ids = request.eos_token_ids;
  answer.max_new_tokens = request.max_new_tokens;
  answer.alternatives = request.alternatives;
  answer.details = plan.details;
  answer.return_full_text = plan.return_full_text;
  answer.as_array = as_array;
  return answer;
}

HttpResponse generate_response(const GenerateAnswer& answer, Headers headers,
                               std::vector<Generation>& generations, const RequestReport& report) {
  const size_t best = index_of_best(generations);
  const Generation& generation = generations[best];
  JsonWriter json;
  if (answer.as_array) json.begin_array();
  json.begin_object();
  json.field("generated_text", text_of(answer, generation.text, generation.end));
  if (answer.details) write_details(json, answer, generations, best);
  json.end_object();
  if (answer.as_array) json.end_array();

  HttpResponse response = json_response(json.take());
  response.headers = std::move(headers);
  add_late_headers(response.headers, generation.end, report);
  return response;
}

std::unique_ptr<EventFormat> generate_events(GenerateAnswer answer) {
  return std::make_unique<GenerateEvents>(std::move(answer));
}

}  // namespace lorax

#include "server/generate_response.h"

#include <algorithm>
#include <limits>

#include "server/api_route.h"
#include "server/json_writer.h"
#include "server/sse.h"
#include "server/token_offsets.h"
#include "text/incremental_detokenizer.h"
#include "text/utf8.h"

namespace lorax {
namespace {

// LoRAX's tokens have the text that they add: clients put those of a stream together. So of a code
// point that is spelled in bytes the last one has all of it, the others nothing.
class TokenTexts {
 public:
  explicit TokenTexts(const GenerateAnswer& answer)
      : tokenizer_(*answer.tokenizer), detokenizer_(tokenizer_, /*skip_special_tokens=*/false) {}

  std::string next(const TokenInfo& token) {
    constexpr size_t kLongest = 4;  // bytes of a code point
    if (const auto byte = byte_of_piece(tokenizer_.piece(token.id))) {
      bytes_ += static_cast<char>(*byte);
      return is_valid_utf8(bytes_) || bytes_.size() == kLongest ? take_bytes() : "";
    }
    const std::string before = take_bytes();
    return before + detokenizer_.push(token.id);
  }

 private:
  std::string take_bytes() {
    std::string text = replace_invalid_utf8(bytes_);
    bytes_.clear();
    return text;
  }

  const Tokenizer& tokenizer_;
  IncrementalDetokenizer detokenizer_;  // of what is not spelled in bytes
  std::string bytes_;                   // of a code point that is incomplete
};

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
  TokenTexts texts(answer);
  for (const GeneratedToken& token : generation.tokens) {
    write_token(json, token.token, texts.next(token.token), answer.alternatives > 0);
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
    if (mean_logprob(generations[i]) > mean_logprob(generations[best])) best = i;
  }
  return best;
}

class GenerateEvents final : public EventFormat {
 public:
  explicit GenerateEvents(GenerateAnswer answer) : answer_(std::move(answer)), texts_(answer_) {}

  std::string prompt(size_t, std::vector<TokenInfo>) override { return ""; }

  std::string token(size_t, GeneratedToken token) override {
    text_ += token.delta;
    ++tokens_;
    std::string events = interruption();
    if (may_be_last(token)) {
      held_ = std::move(token.token);
    } else {
      events += event(token.token, nullptr);
    }
    return events;
  }

  std::string end(size_t, const GenerationEnd& end) override {
    text_ += end.delta;
    if (!held_) held_ = no_token();
    return event(*held_, &end);
  }

  std::string closing(const RequestReport&) override { return ""; }

  std::string interruption() override {
    if (!held_) return "";
    std::string before = event(*held_, nullptr);
    held_.reset();
    return before;
  }

 private:
  // For an end that comes without a token.
  static TokenInfo no_token() {
    TokenInfo token;
    token.id = -1;
    token.special = true;
    return token;
  }

  // The last token's event has the whole text, so a token that can be the last waits for the end of
  // the generation or the next token, whichever comes. One that a stop string ends in cannot have
  // given all of its own text.
  bool may_be_last(const GeneratedToken& token) const {
    if (tokens_ >= answer_.max_new_tokens) return true;
    if (std::ranges::find(answer_.eos_token_ids, token.token.id) != answer_.eos_token_ids.end()) {
      return true;
    }
    return !answer_.stop.empty() &&
           (token.token.text.empty() || !token.delta.ends_with(token.token.text));
  }

  std::string event(const TokenInfo& token, const GenerationEnd* end) {
    JsonWriter json;
    json.begin_object();
    json.key("token");
    write_token(json, token, texts_.next(token), answer_.alternatives > 0);
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
  std::string text_;
  int64_t tokens_ = 0;
  std::optional<TokenInfo> held_;  // the last token, if its event has not gone out
};

}  // namespace

double mean_logprob(const Generation& generation) {
  if (generation.tokens.empty()) return -std::numeric_limits<double>::infinity();
  double sum = 0.0;
  for (const GeneratedToken& token : generation.tokens) sum += token.token.logprob;
  return sum / static_cast<double>(generation.tokens.size());
}

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
  answer.stop = request.stop;
  answer.max_new_tokens = request.max_new_tokens;
  answer.alternatives = request.alternatives;
  answer.details = plan.details;
  answer.decoder_input_details = plan.decoder_input_details;
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

#include "server/completion_response.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace lorax {
namespace {

constexpr std::string_view kObject = "text_completion";

// The chosen token and the alternatives, by text; the first of those with equal texts.
void write_top(JsonWriter& json, const TokenInfo& token) {
  if (std::isnan(token.logprob)) {
    json.null();
    return;
  }
  std::set<std::string_view> seen;
  json.begin_object();
  const auto write = [&](const std::string& text, float logprob) {
    if (seen.insert(text).second) json.field(text, finite_logprob(logprob));
  };
  for (const TokenAlternative& alternative : token.alternatives) {
    write(alternative.text, alternative.logprob);
  }
  write(token.text, token.logprob);
  json.end_object();
}

// `offset`: of the first token's text, in characters; moved behind the last.
void write_logprobs(JsonWriter& json, const std::vector<const TokenInfo*>& tokens,
                    int64_t& offset) {
  json.key("logprobs").begin_object();
  json.key("text_offset").begin_array();
  for (const TokenInfo* token : tokens) {
    json.value(offset);
    offset += static_cast<int64_t>(count_characters(token->text));
  }
  json.end_array();
  json.key("token_logprobs").begin_array();
  for (const TokenInfo* token : tokens) {
    // NaN, for the first token of a prompt, is null.
    json.value(std::isnan(token->logprob) ? token->logprob : finite_logprob(token->logprob));
  }
  json.end_array();
  json.key("tokens").begin_array();
  for (const TokenInfo* token : tokens) json.value(token->text);
  json.end_array();
  json.key("top_logprobs").begin_array();
  for (const TokenInfo* token : tokens) write_top(json, *token);
  json.end_array();
  json.end_object();
}

void write_choice(JsonWriter& json, const CompletionAnswer& answer, const Generation& generation,
                  size_t prompt, int64_t index) {
  json.begin_object();
  json.field("index", index);
  std::string text = answer.echoes.empty() ? "" : answer.echoes[prompt];
  if (!answer.hides_completion) text += generation.text;
  json.field("text", text);
  if (answer.has_logprobs) {
    std::vector<const TokenInfo*> tokens;
    for (const TokenInfo& token : generation.prompt) tokens.push_back(&token);
    if (!answer.hides_completion) {
      for (const GeneratedToken& token : generation.tokens) tokens.push_back(&token.token);
    }
    int64_t offset = 0;
    write_logprobs(json, tokens, offset);
  } else {
    json.null_field("logprobs");
  }
  json.field("finish_reason",
             answer.hides_completion ? "length" : openai_reason(generation.end.reason));
  json.end_object();
}

class CompletionEvents final : public EventFormat {
 public:
  explicit CompletionEvents(CompletionAnswer answer) : answer_(std::move(answer)) {}

  // Echoed prompts go first; with logprobs their tokens are yet to come.
  std::string opening() override {
    std::string events;
    if (answer_.has_logprobs) return events;
    for (size_t prompt = 0; prompt < answer_.echoes.size(); ++prompt) {
      for (int64_t i = 0; i < answer_.choices; ++i) {
        const size_t index = prompt * static_cast<size_t>(answer_.choices) + static_cast<size_t>(i);
        events += chunk(index, answer_.echoes[prompt], {}, nullptr);
      }
    }
    return events;
  }

  std::string prompt(size_t index, std::vector<TokenInfo> tokens) override {
    std::vector<const TokenInfo*> pointers;
    for (const TokenInfo& token : tokens) pointers.push_back(&token);
    return chunk(index, answer_.echoes[index / static_cast<size_t>(answer_.choices)], pointers,
                 nullptr);
  }

  std::string token(size_t index, GeneratedToken token) override {
    if (token.delta.empty() && !answer_.has_logprobs) return "";
    return chunk(index, token.delta, {&token.token}, nullptr);
  }

  std::string end(size_t index, const GenerationEnd& end) override {
    usage_.add(end, index, answer_.candidates);
    return chunk(index, end.delta, {}, &end);
  }

  std::string closing(const RequestReport&) override {
    return closing_events(answer_, kObject, usage_);
  }

 private:
  std::string chunk(size_t index, std::string_view text,
                    const std::vector<const TokenInfo*>& tokens, const GenerationEnd* end) {
    JsonWriter json;
    begin_chunk(json, answer_, kObject, index);
    json.field("text", text);
    if (answer_.has_logprobs && !tokens.empty()) {
      if (offsets_.size() <= index) offsets_.resize(index + 1);
      write_logprobs(json, tokens, offsets_[index]);
    } else {
      json.null_field("logprobs");
    }
    return end_chunk(json, answer_, end);
  }

  CompletionAnswer answer_;
  std::vector<int64_t> offsets_;  // of each choice: characters of the tokens that went out
  Usage usage_;
};

}  // namespace

CompletionAnswer completion_answer(const ApiContext& context, const CompletionPlan& plan,
                                   bool include_usage) {
  CompletionAnswer answer;
  static_cast<OpenAiAnswer&>(answer) = openai_answer(context, plan, "cmpl", include_usage);
  answer.echoes = plan.echoes;
  answer.has_logprobs = plan.has_logprobs;
  answer.hides_completion = plan.hides_completion;
  return answer;
}

HttpResponse completion_response(const CompletionAnswer& answer, Headers headers,
                                 std::vector<Generation>& generations,
                                 const RequestReport& report) {
  JsonWriter json;
  begin_answer(json, answer, kObject);
  json.key("choices").begin_array();
  Usage usage;
  int64_t index = 0;
  const size_t prompts = generations.size() / static_cast<size_t>(answer.candidates);
  for (size_t prompt = 0; prompt < prompts; ++prompt) {
    for (const size_t each : chosen(generations, answer, prompt)) {
      write_choice(json, answer, generations[each], prompt, index++);
    }
  }
  for (size_t i = 0; i < generations.size(); ++i) {
    usage.add(generations[i].end, i, answer.candidates);
  }
  if (answer.hides_completion) usage.completion_tokens = 0;
  return end_answer(json, usage, std::move(headers), generations, report);
}

std::unique_ptr<EventFormat> completion_events(CompletionAnswer answer) {
  return std::make_unique<CompletionEvents>(std::move(answer));
}

}  // namespace lorax

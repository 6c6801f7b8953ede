#include "server/openai/completion_response.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <utility>

#include "server/openai/text_offsets.h"

namespace lorax {
namespace {

constexpr std::string_view kObject = "text_completion";

// The chosen token and up to `count` alternatives, by text; the first of those with equal texts.
void write_top(JsonWriter& json, const TokenInfo& token, size_t count) {
  if (std::isnan(token.logprob)) {
    json.null();
    return;
  }
  std::set<std::string_view> seen;
  json.begin_object();
  const auto write = [&](const std::string& text, float logprob) {
    if (seen.insert(text).second) json.field(text, finite_logprob(logprob));
  };
  for (const TokenAlternative& alternative :
       std::span(token.alternatives).first(std::min(count, token.alternatives.size()))) {
    write(alternative.text, alternative.logprob);
  }
  write(token.text, token.logprob);
  json.end_object();
}

// Where the text of each token of a choice begins, in characters of the choice's text.
class ChoiceOffsets {
 public:
  // `echo`: null for none.
  ChoiceOffsets(const Tokenizer& tokenizer, const Echo* echo)
      : echo_(echo == nullptr ? Echo() : *echo),
        length_(static_cast<int64_t>(count_characters(echo_.text))),
        prompt_(tokenizer, /*skip_special_tokens=*/false),
        generated_(tokenizer, /*skip_special_tokens=*/true, length_) {}

  int64_t of_prompt(const TokenInfo& token) {
    if (std::exchange(echo_.has_hidden_bos, false)) return 0;
    return std::min(prompt_.next(token.id), length_);
  }
  int64_t of_generated(const TokenInfo& token) { return generated_.next(token.id); }

 private:
  Echo echo_;
  int64_t length_;
  TextOffsets prompt_;
  TextOffsets generated_;
};

void write_logprobs(JsonWriter& json, const std::vector<const TokenInfo*>& tokens,
                    const std::vector<int64_t>& offsets, size_t alternatives) {
  json.key("logprobs").begin_object();
  json.key("text_offset").begin_array();
  for (const int64_t offset : offsets) json.value(offset);
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
  for (const TokenInfo* token : tokens) write_top(json, *token, alternatives);
  json.end_array();
  json.end_object();
}

void write_choice(JsonWriter& json, const CompletionAnswer& answer, const Generation& generation,
                  size_t prompt, int64_t index) {
  json.begin_object();
  json.field("index", index);
  const Echo* echo = answer.echoes.empty() ? nullptr : &answer.echoes[prompt];
  std::string text = echo == nullptr ? "" : echo->text;
  if (!answer.hides_completion) text += generation.text;
  json.field("text", text);
  if (answer.has_logprobs) {
    ChoiceOffsets offsets(*answer.tokenizer, echo);
    std::vector<const TokenInfo*> tokens;
    std::vector<int64_t> starts;
    if (echo != nullptr) {
      for (const TokenInfo& token : generation.prompt) {
        tokens.push_back(&token);
        starts.push_back(offsets.of_prompt(token));
      }
    }
    if (!answer.hides_completion) {
      for (const GeneratedToken& token : generation.tokens) {
        tokens.push_back(&token.token);
        starts.push_back(offsets.of_generated(token.token));
      }
    }
    write_logprobs(json, tokens, starts, answer.alternatives);
  } else {
    json.null_field("logprobs");
  }
  json.field("finish_reason",
             answer.hides_completion ? "length" : openai_reason(generation.end.reason));
  write_prompt_logprobs(json, answer, generation.prompt);
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
        events += chunk(index, answer_.echoes[prompt].text, {}, {}, nullptr);
      }
    }
    return events;
  }

  std::string prompt(size_t index, std::vector<TokenInfo> tokens) override {
    std::vector<const TokenInfo*> pointers;
    std::vector<int64_t> starts;
    for (const TokenInfo& token : tokens) {
      pointers.push_back(&token);
      starts.push_back(offsets_of(index).of_prompt(token));
    }
    return chunk(index, echo_of(index)->text, pointers, starts, nullptr);
  }

  std::string token(size_t index, GeneratedToken token) override {
    if (token.delta.empty() && !answer_.has_logprobs) return "";
    if (!answer_.has_logprobs) return chunk(index, token.delta, {}, {}, nullptr);
    return chunk(index, token.delta, {&token.token}, {offsets_of(index).of_generated(token.token)},
                 nullptr);
  }

  std::string end(size_t index, const GenerationEnd& end) override {
    usage_.add(end, index, answer_.candidates);
    return chunk(index, end.delta, {}, {}, &end);
  }

  std::string closing(const RequestReport&) override {
    return closing_events(answer_, kObject, usage_);
  }

 private:
  // Null if prompts are not echoed.
  const Echo* echo_of(size_t index) const {
    if (answer_.echoes.empty()) return nullptr;
    return &answer_.echoes[index / static_cast<size_t>(answer_.choices)];
  }

  ChoiceOffsets& offsets_of(size_t index) {
    return offsets_.try_emplace(index, *answer_.tokenizer, echo_of(index)).first->second;
  }

  std::string chunk(size_t index, std::string_view text,
                    const std::vector<const TokenInfo*>& tokens, const std::vector<int64_t>& starts,
                    const GenerationEnd* end) {
    JsonWriter json;
    begin_chunk(json, answer_, kObject, index);
    json.field("text", text);
    if (answer_.has_logprobs && !tokens.empty()) {
      write_logprobs(json, tokens, starts, answer_.alternatives);
    } else {
      json.null_field("logprobs");
    }
    return end_chunk(json, answer_, end);
  }

  CompletionAnswer answer_;
  std::map<size_t, ChoiceOffsets> offsets_;  // of each choice
  Usage usage_;
};

}  // namespace

CompletionAnswer completion_answer(const ApiContext& context, const CompletionPlan& plan,
                                   bool include_usage) {
  CompletionAnswer answer;
  static_cast<OpenAiAnswer&>(answer) = openai_answer(context, plan, "cmpl", include_usage);
  answer.tokenizer = &context.tokenizer;
  answer.echoes = plan.echoes;
  answer.has_logprobs = plan.has_logprobs;
  answer.alternatives = plan.alternatives;
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
  json.end_array();
  return end_answer(json, usage, std::move(headers), generations, report);
}

std::unique_ptr<EventFormat> completion_events(CompletionAnswer answer) {
  return std::make_unique<CompletionEvents>(std::move(answer));
}

}  // namespace lorax

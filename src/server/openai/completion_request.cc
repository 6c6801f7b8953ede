#include "server/openai/completion_request.h"

#include <fmt/format.h>

#include <utility>

#include "server/api/prompt_tokens.h"
#include "server/api/response_headers.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr std::string_view kPromptForms =
    "a string, a list of strings, a list of token ids or a list of such lists";

int32_t read_id(const json::value& value, int32_t vocab_size) {
  int64_t id = -1;
  if (!value.is_number()) fields::wrong_type(value, "prompt", kPromptForms);
  fields::read(value, "prompt", id);
  if (id < 0 || id >= vocab_size) {
    refuse("prompt",
           fmt::format("`prompt` has the token id {}; ids are from 0 to {}", id, vocab_size - 1));
  }
  return static_cast<int32_t>(id);
}

std::vector<int32_t> read_ids(const json::array& list, int32_t vocab_size) {
  if (list.empty()) refuse("prompt", "`prompt` has no token; give at least one");
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const json::value& id : list) ids.push_back(read_id(id, vocab_size));
  return ids;
}

void read_prompts(const json::value& value, int32_t vocab_size,
                  std::vector<CompletionPrompt>& prompts) {
  if (value.is_string()) {
    prompts.emplace_back(std::string(value.get_string()));
    return;
  }
  if (!value.is_array()) fields::wrong_type(value, "prompt", kPromptForms);
  const json::array& list = value.get_array();
  if (list.empty()) refuse("prompt", "`prompt` is an empty list; give at least one prompt");
  if (list.front().is_number()) {
    prompts.emplace_back(read_ids(list, vocab_size));
    return;
  }
  const bool is_text = list.front().is_string();
  for (const json::value& prompt : list) {
    if (is_text && prompt.is_string()) {
      prompts.emplace_back(std::string(prompt.get_string()));
    } else if (!is_text && prompt.is_array()) {
      prompts.emplace_back(read_ids(prompt.get_array(), vocab_size));
    } else {
      fields::wrong_type(prompt, "prompt", kPromptForms);
    }
  }
}

Field<CompletionBody> prompt_field(int32_t vocab_size) {
  Field<CompletionBody> prompt;
  prompt.name = "prompt";
  prompt.is_required = true;
  const json::object text = {{"type", "string"}};
  const json::object id = {{"type", "integer"}, {"minimum", 0}, {"maximum", vocab_size - 1}};
  const json::object ids = {{"type", "array"}, {"items", id}, {"minItems", 1}};
  prompt.schema = {{"anyOf",
                    {text,
                     {{"type", "array"}, {"items", text}, {"minItems", 1}},
                     ids,
                     {{"type", "array"}, {"items", ids}, {"minItems", 1}}}}};
  fields::document(prompt.schema,
                   {"One prompt or a list of them, as text (bos is put in front) or as token ids "
                    "(nothing is).",
                    "\"The sea is\""});
  prompt.read = [vocab_size](const json::value& value, CompletionBody& body) {
    read_prompts(value, vocab_size, body.prompts);
  };
  return prompt;
}

void check_best_of(const CompletionBody& body) {
  const int64_t best_of = body.best_of.value_or(body.n.value_or(1));
  if (best_of < body.n.value_or(1)) {
    refuse("best_of", "`best_of` must be at least `n`");
  }
  if (body.stream && best_of > body.n.value_or(1)) {
    refuse("best_of", "`best_of` larger than `n` is not supported when streaming tokens");
  }
}

void check_max_tokens(const CompletionBody& body) {
  if (body.max_tokens != 0) return;
  if (!body.echo || body.stream) {
    refuse("max_tokens",
           "`max_tokens` must be strictly positive unless `echo` is set and `stream` is not");
  }
}

// The ids of a prompt, and how its text is echoed.
std::vector<int32_t> tokens_of(const ApiContext& context, const CompletionBody& body,
                               const CompletionPrompt& prompt, Echo& echo) {
  const int64_t truncate = truncation_of(context, body);
  const std::string* text = std::get_if<std::string>(&prompt);
  if (text == nullptr) {
    std::vector<int32_t> ids = std::get<std::vector<int32_t>>(prompt);
    const int64_t extra = static_cast<int64_t>(ids.size()) - truncate;
    if (truncate > 0 && extra > 0) ids.erase(ids.begin(), ids.begin() + extra);
    echo.text = context.tokenizer.decode(ids, false);
    return ids;
  }
  std::vector<int32_t> ids =
      encode_prompt(context.tokenizer, *text, body.add_special_tokens, truncate);
  if (!body.echo) return ids;
  const std::vector<int32_t> whole =
      encode_prompt(context.tokenizer, *text, body.add_special_tokens);
  const std::vector<int32_t> own = encode_prompt(context.tokenizer, *text, /*adds_bos=*/false);
  echo.has_hidden_bos = whole.size() > own.size() && !ids.empty();
  const std::span<const int32_t> shown =
      std::span<const int32_t>(ids).subspan(echo.has_hidden_bos ? 1 : 0);
  echo.text = ids == whole ? *text : context.tokenizer.decode(shown, false);
  return ids;
}

}  // namespace

FieldTable<CompletionBody> completion_fields(const ApiSettings& settings) {
  using B = CompletionBody;
  FieldTable<B> table;
  table.push_back(prompt_field(settings.vocab_size));
  add_openai_fields(table, settings);
  table.push_back(field<B>("max_tokens", &B::max_tokens, {.at_least = 0},
                           {"Tokens to generate at most; 0 with `echo`: none. None: as many as the "
                            "server's limits leave.",
                            "20"}));
  table.push_back(field<B>("best_of", &B::best_of,
                           {.at_least = 1, .at_most = static_cast<double>(settings.max_choices)},
                           {"Generate so many texts for each prompt and answer the `n` most likely "
                            "ones. Not in streams. None: n.",
                            "1"}));
  table.push_back(
      field<B>("logprobs", &B::logprobs,
               {.at_least = 0, .at_most = static_cast<double>(settings.max_alternatives)},
               {"Report logprobs of the tokens, and of so many most likely ones.", "1"}));
  table.push_back(field<B>("echo", &B::echo, {"Put the prompt before the text."}));
  table.push_back(field<B>("add_special_tokens", &B::add_special_tokens,
                           {"Put bos in front of a prompt that comes as text."}));
  return table;
}

CompletionPlan plan_completion(const ApiContext& context, const FieldTable<CompletionBody>& table,
                               CompletionBody body, const Tenant* tenant) {
  AdapterChoice adapter = choose_model(context, body, tenant);
  check_fields(table, body);
  check_best_of(body);
  check_max_tokens(body);

  CompletionPlan plan;
  std::vector<std::vector<int32_t>> prompts;
  for (CompletionPrompt& prompt : body.prompts) {
    const std::string* text = std::get_if<std::string>(&prompt);
    if (text != nullptr) plan.characters += count_characters(*text);
    Echo echo;
    prompts.push_back(tokens_of(context, body, prompt, echo));
    if (prompts.back().empty()) refuse("prompt", "`prompt` gives no token; write some text");
    if (body.echo) plan.echoes.push_back(std::move(echo));
  }

  OpenAiShape shape;
  shape.prompt_field = "prompt";
  shape.max_field = "max_tokens";
  plan.hides_completion = body.max_tokens == 0;
  shape.max_new_tokens = plan.hides_completion ? 1 : body.max_tokens;
  shape.best_of = body.best_of.value_or(0);
  shape.alternatives = static_cast<int32_t>(body.logprobs.value_or(0));
  plan.has_logprobs = body.logprobs.has_value();
  plan.alternatives = static_cast<size_t>(shape.alternatives);
  shape.prompt_logprobs = body.echo && plan.has_logprobs;
  static_cast<OpenAiPlan&>(plan) = plan_openai(context, body, std::move(adapter), prompts, shape);
  return plan;
}

}  // namespace lorax

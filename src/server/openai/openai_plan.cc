#include "server/openai/openai_plan.h"

#include <fmt/format.h>

#include <utility>

#include "server/api/prompt_tokens.h"
#include "server/api/random_seed.h"
#include "server/api/sampling_choice.h"

namespace lorax {
namespace {

SamplingParameters sampling_of(const OpenAiFields& body) {
  SamplingParameters sampling;
  sampling.temperature = usable_temperature(body.temperature.value_or(1.0), body.top_p);
  sampling.top_k = usable_top_k(body.top_k.value_or(0));
  sampling.top_p = positive_float(body.top_p.value_or(1.0));
  sampling.min_p = static_cast<float>(body.min_p.value_or(0.0));
  sampling.typical_p = positive_float(body.typical_p.value_or(1.0));
  sampling.repetition_penalty = positive_float(body.repetition_penalty.value_or(1.0));
  sampling.frequency_penalty = static_cast<float>(body.frequency_penalty.value_or(0.0));
  sampling.presence_penalty = static_cast<float>(body.presence_penalty.value_or(0.0));
  sampling.logit_bias = body.logit_bias;
  sampling.allowed_ids = body.allowed_token_ids;
  sampling.min_tokens = body.min_tokens;
  return sampling;
}

// The tokens of each word, and those that it has behind a space. vLLM leaves the second out where
// they are not as many: a word that is one token within a text then comes nevertheless.
std::vector<std::vector<int32_t>> bad_words_of(const Tokenizer& tokenizer,
                                               const std::vector<std::string>& words) {
  std::vector<std::vector<int32_t>> result;
  for (const std::string& word : words) {
    const size_t start = word.find_first_not_of(" \t\n\r\f\v");
    const std::string bare = start == std::string::npos ? word : word.substr(start);
    const std::vector<int32_t> inside = encode_prompt(tokenizer, bare, /*adds_bos=*/false);
    if (!inside.empty()) result.push_back(inside);
    std::vector<int32_t> behind = encode_prompt(tokenizer, " " + bare, /*adds_bos=*/false);
    if (!behind.empty() && behind != inside) result.push_back(std::move(behind));
  }
  return result;
}

void check_prompt_logprobs(const OpenAiFields& body) {
  if (body.prompt_logprobs && body.stream) {
    refuse("prompt_logprobs", "`prompt_logprobs` is not supported when streaming tokens");
  }
}

// A request that could never be admitted is told so, and not to try again.
void check_count(size_t prompts, int64_t candidates, const ApiContext& context) {
  const int64_t limit =
      std::min(context.settings.max_choices, context.service.limits().max_of_one_flow);
  const int64_t count = static_cast<int64_t>(prompts) * candidates;
  if (count > limit) {
    refuse("n", fmt::format("{} prompts with {} texts each are {} generations; one request may ask "
                            "for at most {}",
                            prompts, candidates, count, limit));
  }
}

bool names_adapter(const OpenAiFields& body) {
  return body.merged_adapters || !body.adapter_id.value_or("").empty();
}

}  // namespace

std::string named_model(const ApiContext& context, const OpenAiFields& body, const Tenant* tenant) {
  if (!names_adapter(body)) {
    if (body.model == kBaseModelId) return "";
    if (!is_base_model(context, body.model)) return body.model;
  }
  return named_adapter(body, VisibleAdapters(context.adapters, tenant));
}

AdapterChoice choose_model(const ApiContext& context, const OpenAiFields& body,
                           const Tenant* tenant) {
  const VisibleAdapters adapters(context.adapters, tenant);
  AdapterChoice named = choose_adapter(body, adapters);
  const bool names_another = names_adapter(body);
  // The base model itself, not the default adapter.
  if (body.model == kBaseModelId && !names_another) return {};
  if (is_base_model(context, body.model)) return named;
  AdapterChoice model = choose_adapter(body.model, adapters);
  if (names_another && named.id != model.id) {
    refuse("adapter_id",
           "`model` names one adapter and `adapter_id` or `merged_adapters` another; leave one of "
           "them out");
  }
  return model;
}

int64_t truncation_of(const ApiContext& context, const OpenAiFields& body) {
  const int64_t most = context.service.limits().max_input_tokens;
  const int64_t wanted = body.truncate_prompt_tokens.value_or(0);
  if (body.truncate_prompt_tokens == 0 || wanted > most) {
    refuse("truncate_prompt_tokens",
           fmt::format("`truncate_prompt_tokens` must be -1 or from 1 to {}. Given: {}", most,
                       wanted));
  }
  return wanted < 0 ? most : wanted;
}

OpenAiPlan plan_openai(const ApiContext& context, const OpenAiFields& body, AdapterChoice adapter,
                       const std::vector<std::vector<int32_t>>& prompts, const OpenAiShape& shape) {
  check_stop_strings(body.stop, context.settings.max_stop_sequences);
  check_prompt_logprobs(body);
  OpenAiPlan plan;
  plan.model = is_base_model(context, body.model) ? context.settings.model_id : body.model;
  plan.choices = body.n.value_or(1);
  plan.prompt_logprobs = body.prompt_logprobs;
  plan.candidates = shape.best_of > 0 ? shape.best_of : plan.choices;
  check_count(prompts.size(), plan.candidates, context);

  GenerationRequest request;
  request.adapter = adapter.id;
  request.cache_scope = body.cache_salt;
  plan.adapter = std::move(adapter);
  request.sampling = sampling_of(body);
  if (!body.ignore_eos && !body.ignore_eos_token) {
    request.eos_token_ids = context.settings.eos_token_ids;
  }
  request.stop_token_ids = body.stop_token_ids;
  request.sampling.bad_words = bad_words_of(context.tokenizer, body.bad_words);
  request.sampling.ending_ids = request.eos_token_ids;
  request.sampling.ending_ids.insert(request.sampling.ending_ids.end(), body.stop_token_ids.begin(),
                                     body.stop_token_ids.end());
  request.stop = body.stop;
  request.alternatives = shape.alternatives;
  request.prompt_logprobs = shape.prompt_logprobs || body.prompt_logprobs;
  request.prompt_alternatives = std::max(shape.prompt_logprobs ? shape.alternatives : 0,
                                         static_cast<int32_t>(body.prompt_logprobs.value_or(0)));
  request.deadline = std::chrono::steady_clock::now() + context.settings.max_request_time;
  const uint64_t seed = body.seed ? body.seed->value : random_seed();
  for (const std::vector<int32_t>& prompt : prompts) {
    request.prompt = prompt;
    request.max_new_tokens =
        fit_new_tokens(static_cast<int64_t>(prompt.size()), shape.max_new_tokens,
                       context.service.limits(), shape.prompt_field, shape.max_field);
    if (body.min_tokens > request.max_new_tokens) {
      refuse("min_tokens", fmt::format("`min_tokens` must be at most `{}`, which is {} here. "
                                       "Given: {}",
                                       shape.max_field, request.max_new_tokens, body.min_tokens));
    }
    for (int64_t i = 0; i < plan.candidates; ++i) {
      request.sampling.seed = seed + static_cast<uint64_t>(i);
      plan.generations.push_back(request);
    }
  }
  return plan;
}

}  // namespace lorax

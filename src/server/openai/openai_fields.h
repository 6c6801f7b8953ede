// The fields that OpenAI's two generating routes share, their extensions by vLLM and LoRAX
// included.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/api/adapter_request.h"
#include "server/api/api_context.h"
#include "server/api/request_fields.h"
#include "server/api/stop_field.h"

namespace lorax {

struct OpenAiFields : AdapterFields {
  std::string model;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> typical_p;
  std::optional<double> repetition_penalty;
  std::optional<double> frequency_penalty;
  std::optional<double> presence_penalty;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::optional<fields::Seed> seed;
  std::optional<int64_t> n;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  std::vector<int32_t> allowed_token_ids;
  std::vector<std::string> bad_words;
  int64_t min_tokens = 0;
  std::optional<int64_t> truncate_prompt_tokens;
  std::optional<int64_t> prompt_logprobs;
  bool ignore_eos = false;
  bool ignore_eos_token = false;
  bool stream = false;
  bool include_usage = false;
};

namespace fields {

void read_logit_bias(const boost::json::value& value, int32_t vocab_size,
                     std::vector<std::pair<int32_t, float>>& bias);
// A list of ids of the model's vocabulary, each of them once.
void read_token_ids(const boost::json::value& value, std::string_view name, int32_t vocab_size,
                    std::vector<int32_t>& ids);
void read_bad_words(const boost::json::value& value, std::vector<std::string>& words);
// include_usage
void read_stream_options(const boost::json::value& value, OpenAiFields& fields);

boost::json::object logit_bias_schema(int32_t vocab_size);
boost::json::object token_ids_schema(int32_t vocab_size, const FieldDoc& doc);
boost::json::object bad_words_schema();
boost::json::object stream_options_schema();

}  // namespace fields

template <typename Request>
void add_sampling_fields(FieldTable<Request>& table, const ApiSettings& settings) {
  using F = OpenAiFields;
  using R = Request;
  const auto number = [&](const char* name, auto member, NumberRange range, FieldDoc doc) {
    table.push_back(field<R>(name, member, range, doc));
  };
  number("temperature", &F::temperature, {.at_least = 0},
         {"Divides the logits; 0 is greedy. None: 1.", "0.7"});
  number("top_p", &F::top_p, {.at_least = 0, .at_most = 1},
         {"Choose among the most likely tokens that together have this probability; 0 is greedy. "
          "None: 1, all.",
          "0.95"});
  number("top_k", &F::top_k, {.at_least = -1},
         {"Choose among so many most likely tokens. None, 0 and -1: all.", "50"});
  number("min_p", &F::min_p, {.at_least = 0, .at_most = 1},
         {"Choose among tokens at least this times as likely as the most likely one. None: 0, all.",
          "0.05"});
  number("typical_p", &F::typical_p, {.above = 0, .at_most = 1},
         {"Choose among the most typical tokens that together have this probability. None: 1, all.",
          "0.95"});
  number("repetition_penalty", &F::repetition_penalty, {.above = 0},
         {"Makes tokens that the prompt or the text has less likely. None: 1, which changes "
          "nothing.",
          "1.1"});
  number("frequency_penalty", &F::frequency_penalty, {.at_least = -2, .at_most = 2},
         {"Taken off a token's logit for each time that the text has it. None: 0.", "0.1"});
  number("presence_penalty", &F::presence_penalty, {.at_least = -2, .at_most = 2},
         {"Taken off the logit of tokens that the text has. None: 0.", "0.1"});
  Field<R> bias;
  bias.name = "logit_bias";
  bias.schema = fields::logit_bias_schema(settings.vocab_size);
  bias.read = [vocab_size = settings.vocab_size](const boost::json::value& value, R& request) {
    fields::read_logit_bias(value, vocab_size, request.logit_bias);
  };
  table.push_back(std::move(bias));
  table.push_back(field<R>("seed", &F::seed,
                           {"Of the random choices: the same seed gives the same text; of several "
                            "choices, each has the next one. None: a random one.",
                            "42"}));
}

// What keeps tokens from being chosen, as vLLM has it.
template <typename Request>
void add_restricting_fields(FieldTable<Request>& table, const ApiSettings& settings) {
  using F = OpenAiFields;
  using R = Request;
  const auto ids = [&](const char* name, std::vector<int32_t> F::*member, const FieldDoc& doc) {
    Field<R> field;
    field.name = name;
    field.schema = fields::token_ids_schema(settings.vocab_size, doc);
    field.read = [name, member, vocab_size = settings.vocab_size](const boost::json::value& value,
                                                                  R& request) {
      fields::read_token_ids(value, name, vocab_size, request.*member);
    };
    table.push_back(std::move(field));
  };
  ids("stop_token_ids", &F::stop_token_ids,
      {"Tokens that end the text; they are no part of it.", "[108]"});
  ids("allowed_token_ids", &F::allowed_token_ids,
      {"Choose among these tokens only. None and []: all.", "[10, 11]"});
  Field<R> words;
  words.name = "bad_words";
  words.schema = fields::bad_words_schema();
  words.read = [](const boost::json::value& value, R& request) {
    fields::read_bad_words(value, request.bad_words);
  };
  table.push_back(std::move(words));
  table.push_back(field<R>("min_tokens", &F::min_tokens, {.at_least = 0},
                           {"Neither a token that ends the text nor a stop string ends it before "
                            "it has so many tokens.",
                            "4"}));
}

// Of the prompt, as vLLM has it.
template <typename Request>
void add_prompt_fields(FieldTable<Request>& table, const ApiSettings& settings) {
  using F = OpenAiFields;
  table.push_back(field<Request>("truncate_prompt_tokens", &F::truncate_prompt_tokens,
                                 {.at_least = -1},
                                 {"Keep so many of the prompt's last tokens; -1: as many as the "
                                  "server takes. None: all.",
                                  "1024"}));
  table.push_back(
      field<Request>("prompt_logprobs", &F::prompt_logprobs,
                     {.at_least = 0, .at_most = static_cast<double>(settings.max_alternatives)},
                     {"Report logprobs of the prompt's tokens, and of so many most likely ones in "
                      "the place of each. Not in streams. None: no.",
                      "1"}));
}

// All of OpenAiFields.
template <typename Request>
void add_openai_fields(FieldTable<Request>& table, const ApiSettings& settings) {
  using F = OpenAiFields;
  using R = Request;
  table.push_back(required(field<R>(
      "model", &F::model,
      {"The served model, or an adapter of it; /v1/models lists both. \"\": the served model.",
       "\"\""})));
  add_adapter_fields(table);
  add_sampling_fields(table, settings);
  table.push_back(field<R>("n", &F::n,
                           {.at_least = 1, .at_most = static_cast<double>(settings.max_choices)},
                           {"Texts to generate for each prompt. None: 1.", "1"}));
  Field<R> stop;
  stop.name = "stop";
  stop.schema = fields::stop_schema(settings.max_stop_sequences);
  stop.read = [](const boost::json::value& value, R& request) {
    fields::read_stop(value, request.stop);
  };
  table.push_back(std::move(stop));
  add_restricting_fields(table, settings);
  add_prompt_fields(table, settings);
  table.push_back(
      field<R>("ignore_eos", &F::ignore_eos, {"Go on after a token that ends the text."}));
  table.push_back(field<R>("ignore_eos_token", &F::ignore_eos_token, {"The same as ignore_eos."}));
  table.push_back(field<R>("stream", &F::stream, {"Answer with server-sent events."}));
  Field<R> options;
  options.name = "stream_options";
  options.schema = fields::stream_options_schema();
  options.read = [](const boost::json::value& value, R& request) {
    fields::read_stream_options(value, request);
  };
  table.push_back(std::move(options));
}

}  // namespace lorax

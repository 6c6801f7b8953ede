// The fields that OpenAI's two generating routes share, their extensions by vLLM and LoRAX
// included.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/adapter_request.h"
#include "server/api_context.h"
#include "server/request_fields.h"
#include "server/unsupported_fields.h"

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
  std::optional<int64_t> seed;
  std::optional<int64_t> n;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool ignore_eos_token = false;
  bool stream = false;
  bool include_usage = false;
};

namespace fields {

void read_stop(const boost::json::value& value, std::vector<std::string>& stop);
void read_logit_bias(const boost::json::value& value, int32_t vocab_size,
                     std::vector<std::pair<int32_t, float>>& bias);
// include_usage
void read_stream_options(const boost::json::value& value, bool& include_usage);

boost::json::object stop_schema(int64_t max_count);
boost::json::object logit_bias_schema();
boost::json::object stream_options_schema();

}  // namespace fields

// Fields of OpenAI and vLLM that would change the form of the answer.
template <typename Request>
void add_unsupported_openai_fields(FieldTable<Request>& table) {
  table.push_back(response_format_field<Request>());
  for (const char* name : {"guided_json", "guided_regex", "guided_choice", "guided_grammar",
                           "structured_outputs", "guideline"}) {
    table.push_back(unsupported<Request>(name, {}, {"A form for the answer."}, is_nothing));
  }
}

template <typename Request>
void add_sampling_fields(FieldTable<Request>& table, const ApiSettings& settings) {
  using F = OpenAiFields;
  using R = Request;
  const auto number = [&](const char* name, auto member, NumberRange range, FieldDoc doc) {
    table.push_back(field<R>(name, member, range, doc));
  };
  number("temperature", &F::temperature, {.at_least = 0},
         {"Divides the logits; 0 is greedy. None: 1.", "0.7"});
  number("top_p", &F::top_p, {.above = 0, .at_most = 1},
         {"Choose among the most likely tokens that together have this probability. None: 1, all.",
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
  bias.schema = fields::logit_bias_schema();
  bias.read = [vocab_size = settings.vocab_size](const boost::json::value& value, R& request) {
    fields::read_logit_bias(value, vocab_size, request.logit_bias);
  };
  table.push_back(std::move(bias));
  table.push_back(field<R>("seed", &F::seed,
                           {"Of the random choices: the same seed gives the same text; of several "
                            "choices, each has the next one. None: a random one.",
                            "42"}));
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
  table.push_back(
      field<R>("ignore_eos", &F::ignore_eos, {"Go on after a token that ends the text."}));
  table.push_back(field<R>("ignore_eos_token", &F::ignore_eos_token, {"The same as ignore_eos."}));
  table.push_back(field<R>("stream", &F::stream, {"Answer with server-sent events."}));
  Field<R> options;
  options.name = "stream_options";
  options.schema = fields::stream_options_schema();
  options.read = [](const boost::json::value& value, R& request) {
    fields::read_stream_options(value, request.include_usage);
  };
  table.push_back(std::move(options));
  add_unsupported_openai_fields(table);
}

}  // namespace lorax

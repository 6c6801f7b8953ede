#include "server/lorax/generate_request.h"

#include <fmt/format.h>

#include "server/api/prompt_tokens.h"
#include "server/api/random_seed.h"
#include "server/api/sampling_choice.h"
#include "server/api/stop_field.h"

namespace lorax {
namespace {

using P = GenerateParameters;

// Whether the parameters ask for a draw, and so for a seed: LoRAX's rule, but temperature 0 is
// greedy whatever stands beside it.
bool samples(const P& parameters) {
  const double temperature = parameters.temperature.value_or(1.0);
  if (temperature == 0.0 || parameters.top_p == 0.0) return false;
  return parameters.do_sample || temperature != 1.0 || parameters.top_k.value_or(0) > 0 ||
         parameters.top_p.value_or(1.0) < 1.0 || parameters.typical_p.value_or(1.0) < 1.0 ||
         parameters.min_p.value_or(0.0) > 0.0;
}

void check_parameters(const P& parameters, const FieldTable<P>& table,
                      const ApiSettings& settings) {
  const int64_t best_of = parameters.best_of.value_or(1);
  const bool may_sample = parameters.do_sample || parameters.temperature ||
                          parameters.top_k.value_or(0) > 0 || parameters.top_p ||
                          parameters.typical_p || parameters.min_p;
  if (best_of > 1 && !may_sample) {
    refuse("best_of", "you must use sampling when `best_of` is > 1");
  }
  check_fields(table, parameters);
  check_stop_strings(parameters.stop, settings.max_stop_sequences);
  if (best_of > 1 && parameters.seed) {
    refuse("seed", "`seed` must not be set when `best_of` > 1");
  }
}

void check_stream(const P& parameters) {
  if (parameters.best_of.value_or(1) != 1) {
    refuse("best_of", "`best_of` != 1 is not supported when streaming tokens");
  }
  if (parameters.decoder_input_details) {
    refuse("decoder_input_details",
           "`decoder_input_details` == true is not supported when streaming tokens");
  }
}

SamplingParameters sampling_of(const P& parameters, const ApiSettings& settings) {
  SamplingParameters sampling;
  sampling.temperature =
      samples(parameters)
          ? usable_temperature(parameters.temperature.value_or(1.0), parameters.top_p)
          : 0.0f;
  sampling.top_k = usable_top_k(parameters.top_k.value_or(0));
  sampling.top_p = positive_float(parameters.top_p.value_or(1.0));
  sampling.typical_p = positive_float(parameters.typical_p.value_or(1.0));
  sampling.min_p = static_cast<float>(parameters.min_p.value_or(0.0));
  sampling.repetition_penalty = positive_float(parameters.repetition_penalty.value_or(1.0));
  sampling.frequency_penalty = static_cast<float>(parameters.frequency_penalty.value_or(0.0));
  sampling.presence_penalty = static_cast<float>(parameters.presence_penalty.value_or(0.0));
  sampling.watermark = parameters.watermark;
  sampling.watermark_gamma = settings.watermark_gamma;
  sampling.watermark_delta = settings.watermark_delta;
  return sampling;
}

std::vector<int32_t> prompt_of(const ApiContext& context, const GenerateBody& body,
                               const std::string& adapter) {
  const int64_t truncate = body.parameters.truncate.value_or(0);
  if (!body.parameters.apply_chat_template) {
    return encode_prompt(context.tokenizer, body.inputs, /*adds_bos=*/true, truncate);
  }
  Conversation conversation;
  conversation.messages.push_back(boost::json::object{{"role", "user"}, {"content", body.inputs}});
  return encode_prompt(context.tokenizer, render_chat(context.chat, conversation, adapter),
                       /*adds_bos=*/false, truncate);
}

// Those that cannot be out of range.
void add_plain_fields(FieldTable<P>& table) {
  table.push_back(field<P>("do_sample", &P::do_sample,
                           {"Draw tokens at random, even if no other parameter asks for it."}));
  table.push_back(field<P>("ignore_eos_token", &P::ignore_eos_token,
                           {"Go on after a token that ends the text."}));
  table.push_back(
      field<P>("return_full_text", &P::return_full_text, {"Put `inputs` before the text."}));
  table.push_back(field<P>("watermark", &P::watermark,
                           {"Mark the text as in \"A Watermark for Large Language Models\"."}));
  table.push_back(field<P>("details", &P::details, {"Add tokens, logprobs and counts."}));
  table.push_back(field<P>("decoder_input_details", &P::decoder_input_details,
                           {"Add the prompt's tokens and logprobs; implies `details`. Not in "
                            "streams."}));
  table.push_back(field<P>("seed", &P::seed,
                           {"Of the random choices; the same seed gives the same text. None: a "
                            "random one.",
                            "42"}));
  table.push_back(field<P>("apply_chat_template", &P::apply_chat_template,
                           {"Make `inputs` a user's turn by the model's chat template."}));
}

}  // namespace

FieldTable<P> generate_parameters(const ApiSettings& settings, const ServiceLimits& limits) {
  const auto number = [](std::optional<double> P::*member, const char* name, NumberRange range,
                         FieldDoc doc) { return field<P>(name, member, range, doc); };
  const auto count = [](std::optional<int64_t> P::*member, const char* name, NumberRange range,
                        FieldDoc doc) { return field<P>(name, member, range, doc); };
  FieldTable<P> table;
  add_adapter_fields(table);
  // In the order in which LoRAX checks them.
  table.push_back(count(&P::best_of, "best_of",
                        {.above = 0, .at_most = static_cast<double>(settings.max_best_of)},
                        {"Generate so many texts and return the most likely one; more than 1 "
                         "needs sampling and no `seed`. Not in streams. None: 1.",
                         "1"}));
  table.push_back(number(&P::temperature, "temperature", {.at_least = 0},
                         {"Divides the logits; 0 is greedy. None: 1.", "0.7"}));
  table.push_back(number(&P::repetition_penalty, "repetition_penalty", {.above = 0},
                         {"Makes tokens that the prompt or the text has less likely. None: 1, "
                          "which changes nothing.",
                          "1.1"}));
  table.push_back(
      number(&P::frequency_penalty, "frequency_penalty", {.at_least = -2, .at_most = 2},
             {"Taken off a token's logit for each time that the text has it. None: 0.", "0.1"}));
  table.push_back(number(&P::presence_penalty, "presence_penalty", {.at_least = -2, .at_most = 2},
                         {"Taken off the logit of tokens that the text has. None: 0.", "0.1"}));
  table.push_back(number(&P::top_p, "top_p", {.at_least = 0, .at_most = 1},
                         {"Choose among the most likely tokens that together have this "
                          "probability; 0 is greedy. None: 1, all.",
                          "0.95"}));
  table.push_back(number(&P::typical_p, "typical_p", {.above = 0, .at_most = 1},
                         {"Choose among the most typical tokens that together have this "
                          "probability. None: all.",
                          "0.95"}));
  table.push_back(number(&P::min_p, "min_p", {.at_least = 0, .at_most = 1},
                         {"Choose among tokens at least this times as likely as the most likely "
                          "one. None: 0, all.",
                          "0.05"}));
  table.push_back(count(&P::top_k, "top_k", {.at_least = -1},
                        {"Choose among so many most likely tokens. None, 0 and -1: all.", "50"}));
  table.push_back(
      count(&P::return_k_alternatives, "return_k_alternatives",
            {.at_least = 0, .at_most = static_cast<double>(settings.max_alternatives)},
            {"Report so many most likely tokens beside each chosen one. None: 0.", "2"}));
  table.push_back(
      count(&P::max_new_tokens, "max_new_tokens", {.above = 0},
            {"Tokens to generate at most. None: as many as the server's limits leave.", "20"}));
  Field<P> stop;
  stop.name = "stop";
  stop.schema = fields::stop_schema(settings.max_stop_sequences);
  stop.schema["description"] =
      "Texts that end the generation where they first appear; they stay in the text.";
  stop.read = [](const boost::json::value& value, P& parameters) {
    fields::read_stop(value, parameters.stop);
  };
  table.push_back(std::move(stop));
  Field<P> truncate = count(&P::truncate, "truncate", {},
                            {"Keep so many of the last tokens of `inputs`. None: all.", "1024"});
  truncate.schema["minimum"] = 1;
  truncate.schema["maximum"] = limits.max_input_tokens;
  table.push_back(std::move(truncate));
  add_plain_fields(table);
  return table;
}

FieldTable<GenerateBody> generate_fields(const ApiSettings& settings, const ServiceLimits& limits,
                                         bool has_stream) {
  using B = GenerateBody;
  const auto table = std::make_shared<FieldTable<P>>(generate_parameters(settings, limits));
  Field<B> parameters;
  parameters.name = "parameters";
  parameters.schema = schema_of(*table);
  parameters.schema["type"] = {"object", "null"};
  exclude_both_adapter_fields(parameters.schema);
  parameters.read = [table](const boost::json::value& value, B& body) {
    if (!value.is_object()) fields::wrong_type(value, "parameters", "an object");
    read_fields(*table, value.get_object(), body.parameters);
    take_unread(
        value.get_object(), FieldPlace::kRequest, "parameters.",
        [&](std::string_view name) { return has_field(*table, name); }, body.parameters.ignored);
  };
  FieldTable<B> fields = {
      required(field<B>("inputs", &B::inputs, {"The prompt.", "\"What is deep learning?\""})),
      std::move(parameters)};
  fields.front().schema["minLength"] = 1;
  if (has_stream) {
    fields.push_back(field<B>("stream", &B::stream, {"Answer with server-sent events."}));
  }
  return fields;
}

void take_unread_fields(const boost::json::object& object, const FieldTable<GenerateBody>& table,
                        const FieldTable<P>& parameters, bool may_stream, GenerateBody& body) {
  const auto is_read = [&](std::string_view name) {
    return has_field(table, name) || (may_stream && name == "stream");
  };
  const auto hint = [&](std::string_view name) -> std::string {
    if (name == "stream") return "use /generate_stream";
    return has_field(parameters, name) ? "put it into `parameters`" : "";
  };
  take_unread(object, FieldPlace::kRequest, "", is_read, body.parameters.ignored, hint);
}

GeneratePlan plan_generate(const ApiContext& context, const FieldTable<P>& table, GenerateBody body,
                           bool stream, const Tenant* tenant) {
  const ApiSettings& settings = context.settings;
  const ServiceLimits& limits = context.service.limits();
  const P& parameters = body.parameters;
  GeneratePlan plan;
  plan.adapter = choose_adapter(parameters, VisibleAdapters(context.adapters, tenant));
  if (stream) check_stream(parameters);
  check_parameters(parameters, table, settings);
  if (body.inputs.empty()) refuse("inputs", "`inputs` cannot be empty");
  if (parameters.truncate &&
      (*parameters.truncate < 1 || *parameters.truncate > limits.max_input_tokens)) {
    refuse("truncate", fmt::format("`truncate` must be strictly positive and at most {}. Given: {}",
                                   limits.max_input_tokens, *parameters.truncate));
  }

  GenerationRequest request;
  request.prompt = prompt_of(context, body, plan.adapter.id);
  if (request.prompt.empty()) refuse("inputs", "`inputs` gives no token; write some text");
  request.max_new_tokens =
      fit_new_tokens(static_cast<int64_t>(request.prompt.size()), parameters.max_new_tokens, limits,
                     "inputs", "max_new_tokens");
  request.adapter = plan.adapter.id;
  request.cache_scope = parameters.cache_salt;
  request.sampling = sampling_of(parameters, settings);
  if (!parameters.ignore_eos_token) request.eos_token_ids = settings.eos_token_ids;
  request.stop = parameters.stop;
  request.alternatives = static_cast<int32_t>(parameters.return_k_alternatives.value_or(0));
  request.prompt_logprobs = parameters.decoder_input_details;
  request.deadline = std::chrono::steady_clock::now() + settings.max_request_time;

  plan.samples = samples(parameters);
  for (int64_t i = 0; i < parameters.best_of.value_or(1); ++i) {
    request.sampling.seed =
        parameters.seed ? parameters.seed->value : (plan.samples ? random_seed() : 0);
    plan.generations.push_back(request);
  }
  plan.inputs = std::move(body.inputs);
  plan.ignored = std::move(body.parameters.ignored);
  plan.details = parameters.details || parameters.decoder_input_details;
  plan.return_full_text = parameters.return_full_text;
  return plan;
}

}  // namespace lorax

#include "server/response_schemas.h"

#include <string>
#include <utility>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>

namespace lorax {
namespace {

namespace json = boost::json;
using Properties = std::vector<std::pair<std::string, json::object>>;

json::object type(const char* name) { return {{"type", name}}; }
json::object nullable(const char* name) { return {{"type", json::array{name, "null"}}}; }
json::object text() { return type("string"); }
json::object integer() { return type("integer"); }
json::object number() { return type("number"); }
json::object boolean() { return type("boolean"); }
json::object reference(const std::string& name) {
  return {{"$ref", "#/components/schemas/" + name}};
}
json::object list_of(json::object items) {
  return {{"type", "array"}, {"items", std::move(items)}};
}
json::object or_null(json::object schema) {
  return {{"anyOf", json::array{std::move(schema), type("null")}}};
}
json::object constant(const char* value) { return {{"const", value}}; }
json::object one_of(json::array values) {
  return {{"type", "string"}, {"enum", std::move(values)}};
}

// An object whose properties are all there, but those in `optional`.
json::object object_of(const Properties& properties,
                       const std::vector<std::string>& optional = {}) {
  json::object all;
  json::array required;
  for (const auto& [name, schema] : properties) {
    all[name] = schema;
    bool is_required = true;
    for (const std::string& each : optional) is_required &= each != name;
    if (is_required) required.emplace_back(name);
  }
  return {{"type", "object"}, {"properties", std::move(all)}, {"required", std::move(required)}};
}

json::object lorax_reason() { return one_of({"length", "eos_token", "stop_sequence"}); }
json::object openai_reason() { return one_of({"stop", "length"}); }

void add_generate_schemas(json::object& schemas) {
  schemas["Alternative"] =
      object_of({{"id", integer()}, {"text", text()}, {"logprob", nullable("number")}});
  schemas["PrefillToken"] =
      object_of({{"id", integer()}, {"text", text()}, {"logprob", nullable("number")}});
  schemas["Token"] = object_of({{"id", integer()},
                                {"text", text()},
                                {"logprob", nullable("number")},
                                {"special", boolean()},
                                {"alternative_tokens", list_of(reference("Alternative"))},
                                {"skipped", boolean()}},
                               {"alternative_tokens"});
  const json::object prefill = list_of(reference("PrefillToken"));
  const json::object tokens = list_of(reference("Token"));
  schemas["BestOfSequence"] = object_of({{"generated_text", text()},
                                         {"finish_reason", lorax_reason()},
                                         {"generated_tokens", integer()},
                                         {"seed", nullable("integer")},
                                         {"prefill", prefill},
                                         {"tokens", tokens}});
  schemas["Details"] = object_of({{"finish_reason", lorax_reason()},
                                  {"prompt_tokens", integer()},
                                  {"generated_tokens", integer()},
                                  {"skipped_tokens", integer()},
                                  {"seed", nullable("integer")},
                                  {"prefill", prefill},
                                  {"tokens", tokens},
                                  {"best_of_sequences", list_of(reference("BestOfSequence"))}},
                                 {"best_of_sequences"});
  schemas["GenerateResponse"] =
      object_of({{"generated_text", text()}, {"details", reference("Details")}}, {"details"});
  schemas["CompatGenerateResponse"] = list_of(reference("GenerateResponse"));
  schemas["StreamDetails"] = object_of({{"finish_reason", lorax_reason()},
                                        {"prompt_tokens", integer()},
                                        {"generated_tokens", integer()},
                                        {"seed", nullable("integer")}});
  schemas["StreamResponse"] = object_of({{"token", reference("Token")},
                                         {"generated_text", nullable("string")},
                                         {"details", or_null(reference("StreamDetails"))}});
  schemas["TokenizeResponse"] = list_of(
      object_of({{"id", integer()}, {"text", text()}, {"start", integer()}, {"stop", integer()}}));
}

void add_openai_schemas(json::object& schemas) {
  schemas["Usage"] =
      object_of({{"prompt_tokens", integer()},
                 {"completion_tokens", integer()},
                 {"total_tokens", integer()},
                 {"prompt_tokens_details", object_of({{"cached_tokens", integer()}})}});
  const json::object probabilities = {{"type", json::array{"object", "null"}},
                                      {"additionalProperties", number()}};
  schemas["CompletionLogprobs"] = object_of({{"text_offset", list_of(integer())},
                                             {"token_logprobs", list_of(nullable("number"))},
                                             {"tokens", list_of(text())},
                                             {"top_logprobs", list_of(probabilities)}});
  const Properties token = {
      {"token", text()}, {"logprob", number()}, {"bytes", list_of(integer())}};
  Properties chosen = token;
  chosen.emplace_back("top_logprobs", list_of(object_of(token)));
  schemas["ChatLogprobs"] =
      object_of({{"content", list_of(object_of(chosen))}, {"refusal", type("null")}});

  const auto answer = [](const char* object, json::object choice) {
    return object_of({{"id", text()},
                      {"object", constant(object)},
                      {"created", integer()},
                      {"model", text()},
                      {"system_fingerprint", text()},
                      {"choices", list_of(std::move(choice))},
                      {"usage", reference("Usage")}});
  };
  schemas["CompletionResponse"] =
      answer("text_completion", object_of({{"index", integer()},
                                           {"text", text()},
                                           {"logprobs", or_null(reference("CompletionLogprobs"))},
                                           {"finish_reason", openai_reason()}}));
  schemas["ChatResponse"] =
      answer("chat.completion", object_of({{"index", integer()},
                                           {"message", object_of({{"role", constant("assistant")},
                                                                  {"content", text()},
                                                                  {"refusal", type("null")}})},
                                           {"logprobs", or_null(reference("ChatLogprobs"))},
                                           {"finish_reason", openai_reason()}}));
  schemas["Model"] = object_of({{"id", text()},
                                {"object", constant("model")},
                                {"created", integer()},
                                {"owned_by", text()},
                                {"root", text()},
                                {"parent", nullable("string")},
                                {"max_model_len", integer()}});
  schemas["ModelList"] =
      object_of({{"object", constant("list")}, {"data", list_of(reference("Model"))}});
}

void add_status_schemas(json::object& schemas) {
  schemas["Info"] = object_of({{"model_id", text()},
                               {"model_sha", nullable("string")},
                               {"model_dtype", text()},
                               {"model_device_type", text()},
                               {"model_pipeline_tag", nullable("string")},
                               {"max_concurrent_requests", integer()},
                               {"max_best_of", integer()},
                               {"max_stop_sequences", integer()},
                               {"max_input_length", integer()},
                               {"max_total_tokens", integer()},
                               {"waiting_served_ratio", number()},
                               {"max_batch_total_tokens", integer()},
                               {"max_waiting_tokens", integer()},
                               {"validation_workers", integer()},
                               {"eager_prefill", boolean()},
                               {"version", text()},
                               {"sha", nullable("string")},
                               {"docker_label", nullable("string")},
                               {"request_logger_url", nullable("string")}});
  schemas["LoraxError"] = object_of({{"error", text()}, {"error_type", text()}});
  schemas["OpenAiError"] = object_of({{"error", object_of({{"message", text()},
                                                           {"type", text()},
                                                           {"param", nullable("string")},
                                                           {"code", nullable("string")}})}});
}

}  // namespace

json::object response_schemas() {
  json::object schemas;
  add_generate_schemas(schemas);
  add_openai_schemas(schemas);
  add_status_schemas(schemas);
  return schemas;
}

}  // namespace lorax

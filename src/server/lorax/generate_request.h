// The body of LoRAX's generating routes: "/generate", "/generate_stream", "/" and "/invocations".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/api/adapter_request.h"
#include "server/api/api_context.h"
#include "server/api/request_fields.h"

namespace lorax {

// `parameters`, as sent.
struct GenerateParameters : AdapterFields {
  std::optional<int64_t> best_of;
  std::optional<double> temperature;
  std::optional<double> repetition_penalty;
  std::optional<double> frequency_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> top_p;
  std::optional<double> typical_p;
  std::optional<double> min_p;
  std::optional<int64_t> top_k;
  bool do_sample = false;
  std::optional<int64_t> return_k_alternatives;
  std::optional<int64_t> max_new_tokens;
  bool ignore_eos_token = false;
  bool return_full_text = false;
  std::vector<std::string> stop;
  std::optional<int64_t> truncate;
  bool watermark = false;
  bool apply_chat_template = false;
  bool details = false;
  bool decoder_input_details = false;
  std::optional<fields::Seed> seed;
};

struct GenerateBody {
  std::string inputs;
  GenerateParameters parameters;
  bool stream = false;  // of the routes "/" and "/invocations"
};

// `max_input_tokens` bounds `truncate`.
FieldTable<GenerateParameters> generate_parameters(const ApiSettings& settings,
                                                   const ServiceLimits& limits);
// With `stream` where the route lets the body choose.
FieldTable<GenerateBody> generate_fields(const ApiSettings& settings, const ServiceLimits& limits,
                                         bool has_stream);

// Refuses or reports what the body has beside the fields of `table`, which is generate_fields().
// `may_stream`: "stream" is none of these, and what it says is what the route does anyway.
void take_unread_fields(const boost::json::object& object, const FieldTable<GenerateBody>& table,
                        const FieldTable<GenerateParameters>& parameters, bool may_stream,
                        GenerateBody& body);

// A valid request, ready to be submitted.
struct GeneratePlan {
  std::string inputs;
  AdapterChoice adapter;
  std::vector<GenerationRequest> generations;  // best_of; they differ in their seeds
  IgnoredFields ignored;
  bool samples = false;
  bool details = false;
  bool return_full_text = false;
};

// The plan of a body. Checks in LoRAX's order; throws ApiError.
GeneratePlan plan_generate(const ApiContext& context, const FieldTable<GenerateParameters>& table,
                           GenerateBody body, bool stream, const Tenant* tenant);

}  // namespace lorax

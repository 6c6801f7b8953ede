// What LoRAX's generating routes answer.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/api/api_context.h"
#include "server/api/response_headers.h"
#include "server/api/response_task.h"
#include "server/lorax/generate_request.h"

namespace lorax {

// What of a plan the answer needs.
struct GenerateAnswer {
  const Tokenizer* tokenizer = nullptr;  // must outlive the answer
  std::string inputs;
  AdapterChoice adapter;
  std::vector<uint64_t> seeds;  // of each generation; empty if none samples
  std::vector<int32_t> eos_token_ids;
  int64_t max_new_tokens = 0;
  int32_t alternatives = 0;
  bool details = false;
  bool return_full_text = false;
  bool as_array = false;  // of the routes "/" and "/invocations"
};

GenerateAnswer answer_of(const ApiContext& context, const GeneratePlan& plan, bool as_array);

// The whole response; of several generations the one with the highest mean logprob comes first.
HttpResponse generate_response(const GenerateAnswer& answer, Headers headers,
                               std::vector<Generation>& generations, const RequestReport& report);

// One event per token; the last one also has the text and, if asked for, the details.
std::unique_ptr<EventFormat> generate_events(GenerateAnswer answer);

}  // namespace lorax

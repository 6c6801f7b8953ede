// What front ends see of the engine: requests go in, tokens come out through one sink per request.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/schedule/sampling_parameters.h"

namespace lorax {

using RequestId = uint64_t;

struct GenerationRequest {
  std::vector<int32_t> prompt;  // ids, at least one, within the service's limits
  std::string adapter;          // id of the AdapterStore; "": the base model
  std::string flow;             // whose request it is, for fairness: the name of an API key
  // Keys and values of equal prompts are shared by requests of equal scope alone.
  std::string cache_scope;
  SamplingParameters sampling;

  int64_t max_new_tokens = 1;          // at least 1; prompt + this within max_total_tokens
  std::vector<int32_t> eos_token_ids;  // end the text; empty to go on after them
  // End the text, too; they are no part of it. Neither of them ends it, nor does a stop string,
  // before there are sampling.min_tokens: the caller names them in sampling.ending_ids.
  std::vector<int32_t> stop_token_ids;
  // Strings that end the text where they first appear, across token borders and inside a token
  // too. None is empty.
  std::vector<std::string> stop;

  int32_t alternatives = 0;         // most likely tokens to report beside each chosen one
  bool prompt_logprobs = false;     // report the prompt's tokens
  int32_t prompt_alternatives = 0;  // beside each of them

  // When to give up, in the queue or running.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

struct TokenAlternative {
  int32_t id = 0;
  std::string text;
  float logprob = 0.0f;
};

// One token of a text, with the natural logarithm of its probability.
struct TokenInfo {
  int32_t id = 0;
  std::string text;      // of this token, special ones spelled out
  float logprob = 0.0f;  // NaN: the first of a prompt, which nothing predicts
  bool special = false;
  std::vector<TokenAlternative> alternatives;  // most likely first
};

struct GeneratedToken {
  TokenInfo token;
  // What the text gains by it: valid UTF-8, special tokens left out. Empty while a code point is
  // incomplete or the text may turn out to be the beginning of a stop string.
  std::string delta;
};

enum class FinishReason {
  kLength,        // max_new_tokens
  kEosToken,      //
  kStopSequence,  // a stop string, or one of stop_token_ids
  kCancelled,     // cancel(), or the service stopped
  kTimedOut,      // deadline
  kFailed,        // `error` says why
};

// What went wrong with a request that ended as kFailed.
enum class FailureKind {
  kNone,
  kAdapter,  // its adapter cannot be loaded, or does not fit
  kRequest,  // it cannot be served as it is: more pages than there are, a logit that is NaN
  kService,  // the engine or its device failed, or is stopping
  kMemory,   // the server is short of memory; `error` may be empty
};

struct GenerationEnd {
  FinishReason reason = FinishReason::kLength;
  FailureKind failure = FailureKind::kNone;
  std::string error;          // one line, for the client
  std::string delta;          // the rest of the text that was held back
  std::string stop_sequence;  // the stop string that was found, if one was; it is in no delta
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;  // taken from the prefix cache
  int64_t generated_tokens = 0;
  int64_t preemptions = 0;
  // From submit() to the first step that it took part in, from there to the first token, from
  // there to the end.
  std::chrono::nanoseconds queue_time{0};
  std::chrono::nanoseconds prefill_time{0};
  std::chrono::nanoseconds decode_time{0};
};

// Where one request's results go. All calls come from the engine's thread, one after the other;
// they must not block, throw (also where memory is short), or call the service, except for
// cancel().
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // Once before the first token, if prompt_logprobs was asked for.
  virtual void on_prompt(std::vector<TokenInfo> tokens) = 0;
  virtual void on_token(GeneratedToken token) = 0;
  // Exactly once per accepted request, and last.
  virtual void on_end(GenerationEnd end) = 0;
};

struct ServiceLimits {
  int64_t max_input_tokens = 0;
  int64_t max_total_tokens = 0;         // prompt and generated
  int64_t max_concurrent_requests = 0;  // queued and running
  int64_t max_of_one_flow = 0;          // of these, that one flow gets if nobody else has any
};

// A moment's state, and counts since the start.
struct ServiceStats {
  int64_t waiting = 0;
  int64_t running = 0;
  int64_t kv_blocks = 0;         // in all
  int64_t kv_blocks_used = 0;    // by requests
  int64_t kv_blocks_cached = 0;  // held by the prefix cache alone
  uint64_t steps = 0;
  uint64_t preemptions = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t prefix_tokens_queried = 0;  // of prompts that were looked up in the prefix cache
  uint64_t prefix_tokens_hit = 0;
  // Of the last step.
  int64_t step_tokens = 0;
  std::chrono::nanoseconds step_time{0};
  // Store ids; the base model is not among them.
  std::vector<std::string> running_adapters;
  std::vector<std::string> waiting_adapters;
};

class GenerationService {
 public:
  virtual ~GenerationService() = default;

  enum class Admission { kAccepted, kOverloaded, kStopping };
  struct Submitted {
    Admission admission = Admission::kAccepted;
    RequestId id = 0;
    std::chrono::seconds retry_after{1};  // when it is worth to ask again, if kOverloaded
  };

  // All functions may be called from any thread and wait for nothing but a short lock.

  // Queues the request. If it is not accepted the sink is dropped without a call, and so it is if
  // this throws std::bad_alloc. Precondition: the request is within limits().
  virtual Submitted submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) = 0;
  // Ends the request within one step, with kCancelled; unknown and ended ids are ignored. Sinks may
  // call it, too. Never throws: without memory, the request goes on to its end.
  virtual void cancel(RequestId id) = 0;

  virtual const ServiceLimits& limits() const = 0;
  virtual ServiceStats stats() const = 0;
  // False once the engine or its device has failed: it takes no more requests.
  virtual bool healthy() const = 0;
};

// Whose share of places a request takes: an API key's use of an adapter.
inline std::string places_flow_of(const GenerationRequest& request) {
  return request.flow + '\n' + request.adapter;
}

// "length", "eos_token", "stop_sequence": LoRAX's names; others are not part of its API.
std::string_view name_of(FinishReason reason);

}  // namespace lorax

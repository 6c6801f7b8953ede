// What the handlers of all routes stand on.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/schedule/generation_service.h"
#include "server/api/adapter_directory.h"
#include "server/api/api_error.h"
#include "server/api/chat_renderer.h"
#include "server/api/worker_pool.h"
#include "server/http/http.h"
#include "server/observe/request_observer.h"
#include "text/tokenizer.h"

namespace lorax {

struct ApiSettings {
  // What /info says of the model and of this program.
  std::string model_id;                        // as clients are told
  std::vector<std::string> model_names;        // further names by which they may call it
  std::string model_path;                      // where it lies: in no message to them
  std::string model_sha;                       // "": null
  std::string model_dtype = "torch.bfloat16";  // as PyTorch spells it
  std::string device_type = "cpu";             // "cpu" or "cuda"
  std::string version;
  std::string sha;                     // of the sources; "": null
  int64_t max_batch_total_tokens = 0;  // that the KV cache holds
  int64_t started = 0;                 // seconds since 1970

  std::vector<int32_t> eos_token_ids;
  int32_t vocab_size = 0;  // ids that the model takes
  int64_t max_best_of = 2;
  int64_t max_stop_sequences = 4;
  // Of `n`, and of prompts times `n`, on the OpenAI routes.
  int64_t max_choices = 128;
  // Of return_k_alternatives, logprobs and top_logprobs.
  int64_t max_alternatives = 20;
  float watermark_gamma = 0.5f;
  float watermark_delta = 2.0f;
  std::chrono::milliseconds max_request_time = std::chrono::minutes(10);
  // Whether requests of different API keys share pages of the prefix cache.
  bool shares_prefixes = false;
  // Whether /metrics and the documentation need an API key.
  bool protects_status = false;
  // What may pass before a request comes to the engine, or a folder is listed.
  std::chrono::milliseconds preparation_time = std::chrono::seconds(10);
  // Whether /v1/load_lora_adapter and /v1/unload_lora_adapter do anything.
  bool allow_runtime_adapters = false;
  // False while memory is so short that new generations are refused. From any thread.
  std::function<bool()> has_memory = [] { return true; };
  // Called with a store's id, from the handlers' threads: what is on disk has changed, and: the
  // adapter is not wanted any more (AdapterStore::refresh and forget).
  std::function<void(const std::string& id)> refresh_adapter;
  std::function<void(const std::string& id)> forget_adapter;
  // What is wrong with the service, "" if nothing is; and whether it is about to end. For /health;
  // without it the service's healthy() is asked.
  std::function<std::string()> fault;
  std::function<bool()> is_draining;
  // Answers /metrics; without it there is no such route.
  std::function<HttpResponse(const HttpRequest& request)> metrics;
};

// What it refers to must outlive all requests: those that the transport holds and those that the
// service holds.
struct ApiContext {
  GenerationService& service;
  const Tokenizer& tokenizer;
  AdapterDirectory& adapters;
  const ChatRenderer& chat;
  RequestObserver& observer;
  WorkerPool& workers;
  ApiSettings settings;
};

// Whether a client's name for a model is the base model's.
bool is_base_model(const ApiContext& context, std::string_view name);
// The error without the paths of this machine.
ApiError for_clients(const ApiContext& context, const ApiError& error);

}  // namespace lorax

#include "server/api_operations.h"

namespace lorax {
namespace {

constexpr const char* kJson = "application/json";
constexpr const char* kEvents = "text/event-stream";
constexpr const char* kText = "text/plain";
constexpr const char* kGenerateExample =
    R"({"inputs": "In the beginning", "parameters": {"max_new_tokens": 20}})";

const std::vector<int> kLoraxErrors = {400, 413, 415, 422, 424, 429, 500, 503, 504};
const std::vector<int> kOpenAiErrors = {400, 404, 413, 415, 424, 429, 500, 503, 504};

void add_generating(std::vector<ApiOperation>& operations) {
  const auto generate = [&](const char* path, const char* id, const char* summary,
                            const char* request, const char* response, bool streams) {
    operations.push_back({"POST", path, "LoRAX", id, summary, request, kGenerateExample, response,
                          kJson, streams, kLoraxErrors, ApiDialect::kLorax});
  };
  generate("/generate", "generate", "Generate text", "GenerateRequest", "GenerateResponse", false);
  generate("/generate_stream", "generate_stream",
           "Generate text, each token as a server-sent event", "GenerateRequest", "StreamResponse",
           true);
  operations.back().response_type = kEvents;
  generate("/", "compat_generate",
           "Generate text: a list of one answer, or server-sent events if `stream` is true",
           "CompatGenerateRequest", "CompatGenerateResponse", true);
  generate("/invocations", "invocations", "The same as POST /, for SageMaker",
           "CompatGenerateRequest", "CompatGenerateResponse", true);
  operations.push_back({"POST",
                        "/tokenize",
                        "LoRAX",
                        "tokenize",
                        "Tokens of a text",
                        "TokenizeRequest",
                        R"({"inputs": "In the beginning"})",
                        "TokenizeResponse",
                        kJson,
                        false,
                        {400, 413, 415, 422},
                        ApiDialect::kLorax});
}

void add_openai(std::vector<ApiOperation>& operations) {
  operations.push_back({"POST", "/v1/completions", "OpenAI", "completions", "Continue a prompt",
                        "CompletionRequest",
                        R"({"model": "", "prompt": "In the beginning", "max_tokens": 20})",
                        "CompletionResponse", kJson, true, kOpenAiErrors, ApiDialect::kOpenAi});
  operations.push_back(
      {"POST", "/v1/chat/completions", "OpenAI", "chat_completions", "Answer in a conversation",
       "ChatRequest",
       R"({"model": "", "messages": [{"role": "user", "content": "Who are you?"}], )"
       R"("max_completion_tokens": 20})",
       "ChatResponse", kJson, true, kOpenAiErrors, ApiDialect::kOpenAi});
  operations.push_back({"GET",
                        "/v1/models",
                        "OpenAI",
                        "models",
                        "The served model and its adapters",
                        "",
                        "",
                        "ModelList",
                        kJson,
                        false,
                        {},
                        ApiDialect::kOpenAi});
  operations.push_back({"GET",
                        "/v1/models/{model}",
                        "OpenAI",
                        "model",
                        "The served model, or one of its adapters",
                        "",
                        "",
                        "Model",
                        kJson,
                        false,
                        {404},
                        ApiDialect::kOpenAi});
  const std::vector<int> errors = {400, 403, 404, 413, 415};
  operations.push_back({"POST", "/v1/load_lora_adapter", "Adapters", "load_lora_adapter",
                        "Give an adapter a name (needs --allow-runtime-adapters)",
                        "LoadAdapterRequest", R"({"lora_name": "speaker", "lora_path": "pirate"})",
                        "", kText, false, errors, ApiDialect::kOpenAi});
  operations.push_back({"POST", "/v1/unload_lora_adapter", "Adapters", "unload_lora_adapter",
                        "Take such a name back (needs --allow-runtime-adapters)",
                        "UnloadAdapterRequest", R"({"lora_name": "speaker"})", "", kText, false,
                        errors, ApiDialect::kOpenAi});
}

void add_status(const ApiContext& context, std::vector<ApiOperation>& operations) {
  const auto get = [&](const char* path, const char* id, const char* summary, const char* response,
                       const char* type, std::vector<int> errors) {
    operations.push_back({"GET", path, "Status", id, summary, "", "", response, type, false,
                          std::move(errors), ApiDialect::kLorax});
  };
  get("/health", "health", "200 while the engine works", "", "", {503});
  get("/", "root_health", "The same as /health", "", "", {503});
  get("/ping", "ping", "The same as /health", "", "", {503});
  get("/startup", "startup", "200 once the server has started; generates nothing", "", "",
      {424, 429, 500, 503, 504});
  get("/info", "info", "What is served, and its limits", "Info", kJson, {});
  if (context.settings.metrics) get("/metrics", "metrics", "Metrics for Prometheus", "", kText, {});
  get("/docs", "docs", "The routes, with examples", "", "text/html", {});
  get("/api-doc/openapi.json", "openapi", "The routes, as an OpenAPI document", "", kJson, {});
}

}  // namespace

std::vector<ApiOperation> api_operations(const ApiContext& context) {
  std::vector<ApiOperation> operations;
  add_generating(operations);
  add_openai(operations);
  add_status(context, operations);
  return operations;
}

}  // namespace lorax

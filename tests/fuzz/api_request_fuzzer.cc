// A request body from foreign hands, on one of the routes that take one (the first byte says
// which): it is served, or refused with a clear error, whatever the bytes. Run from the
// repository's root.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/check.h"
#include "formats/json_file.h"
#include "server/api.h"
#include "server/api/template_chat_renderer.h"
#include "server/http/testing/recording_writer.h"
#include "server/testing/scripted_service.h"

namespace lorax {
namespace {

struct Fixture {
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer("models/tiny-gemma2");
  TemplateChatRenderer chat{load_chat_templates("models/tiny-gemma2"), *tokenizer, {}};
  AdapterDirectory adapters{"models/tiny-gemma2/adapters"};
  NoObserver observer;
  ScriptedService service;
  WorkerPool workers{{.threads = 1, .most_pending = 1},
                     [](const std::exception_ptr&) { LORAX_CHECK(false, "work has thrown"); }};
  std::vector<ApiRoute> routes;

  Fixture() {
    ApiSettings settings;
    settings.model_id = "models/tiny-gemma2";
    settings.eos_token_ids = {1};
    settings.vocab_size = tokenizer->vocab_size();
    settings.allow_runtime_adapters = true;
    routes = make_api_routes({service, *tokenizer, adapters, chat, observer, workers, settings});
    std::erase_if(routes, [](const ApiRoute& route) { return route.method != "POST"; });
    service.set_writer([](const GenerationRequest& request, size_t) {
      Script script = scripted_text({" a", "\xc3\xa9"});
      script.tokens.push_back(scripted_eos());
      script.prompt.resize(request.prompt.size());
      script.end.reason = FinishReason::kEosToken;
      return script;
    });
  }
};

std::string_view path_of(uint8_t byte) {
  switch (byte) {
    case 's':
      return "/generate_stream";
    case 'c':
      return "/";
    case 't':
      return "/tokenize";
    case 'p':
      return "/v1/completions";
    case 'h':
      return "/v1/chat/completions";
    case 'l':
      return "/v1/load_lora_adapter";
    case 'u':
      return "/v1/unload_lora_adapter";
    default:
      return "/generate";
  }
}

// What the engine may rely on.
void check_request(const GenerationRequest& request, const ServiceLimits& limits,
                   int32_t vocab_size) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  LORAX_CHECK(prompt >= 1 && prompt <= limits.max_input_tokens);
  LORAX_CHECK(request.max_new_tokens >= 1);
  LORAX_CHECK(prompt + request.max_new_tokens <= limits.max_total_tokens);
  LORAX_CHECK(
      std::ranges::all_of(request.prompt, [&](int32_t id) { return id >= 0 && id < vocab_size; }));
  LORAX_CHECK(std::ranges::none_of(request.stop, &std::string::empty));
  const SamplingParameters& sampling = request.sampling;
  LORAX_CHECK(sampling.temperature >= 0.0f && sampling.top_p > 0.0f && sampling.top_p <= 1.0f);
  LORAX_CHECK(sampling.typical_p > 0.0f && sampling.typical_p <= 1.0f);
  LORAX_CHECK(sampling.min_p >= 0.0f && sampling.min_p <= 1.0f && sampling.top_k >= 0);
  LORAX_CHECK(sampling.repetition_penalty > 0.0f);
}

void fuzz_request(uint8_t route_byte, std::string_view body) {
  static Fixture fixture;
  const std::string_view path = path_of(route_byte);
  const auto route = std::ranges::find(fixture.routes, path, &ApiRoute::path);
  LORAX_CHECK(route != fixture.routes.end());
  auto writer = std::make_shared<RecordingWriter>();
  HttpRequest request;
  request.method = "POST";
  request.path = path;
  request.body = body;
  fixture.service.forget_requests();
  route->handler(request, writer);
  LORAX_CHECK(fixture.workers.wait_until_idle(std::chrono::minutes(1)));
  for (const GenerationRequest& each : fixture.service.requests()) {
    check_request(each, fixture.service.limits(), fixture.tokenizer->vocab_size());
  }
  fixture.service.run();
  LORAX_CHECK(writer->ended());
  const HttpResponse response = writer->response();
  LORAX_CHECK(response.status == 200 || (response.status >= 400 && response.status < 500), "{}",
              response.status);
  // A header that holds a line break would begin another.
  for (const auto& [name, value] : response.headers) {
    LORAX_CHECK(std::ranges::none_of(value, [](char c) {
      return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f;
    }));
  }
  if (response.content_type == "application/json") parse_json(response.body, "response");
}

}  // namespace
}  // namespace lorax

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  lorax::fuzz_request(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}

#include "cli/serve_options.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "cli/adapter_options.h"
#include "cli/launcher_flags.h"

namespace lorax::cli {
namespace {

// LoRAX's names among them.
const std::map<std::string, LogLevel> kLogLevels = {
    {"trace", LogLevel::kDebug},     {"debug", LogLevel::kDebug},  {"info", LogLevel::kInfo},
    {"warning", LogLevel::kWarning}, {"warn", LogLevel::kWarning}, {"error", LogLevel::kError}};

// Adds options to one group of the help text, each with its environment variable.
class Group {
 public:
  Group(CLI::App& command, std::string name) : command_(command), name_(std::move(name)) {}

  template <typename T>
  CLI::Option* add(const std::string& flag, T& value, const std::string& help) {
    return finish(command_.add_option(flag, value, help), flag);
  }
  // A switch that also takes true or false: --chunked-prefill false.
  CLI::Option* add_switch(const std::string& flag, bool& value, const std::string& help) {
    return finish(command_.add_option(flag, value, help)
                      ->expected(0, 1)
                      ->default_str("true")
                      ->type_name("BOOL"),
                  flag);
  }
  CLI::Option* add_flag(const std::string& flag, bool& value, const std::string& help) {
    return finish(command_.add_flag(flag, value, help), flag);
  }

 private:
  CLI::Option* finish(CLI::Option* option, const std::string& flag) {
    const std::string longest = flag.substr(flag.find("--"));
    return option->group(name_)->envname(environment_name(longest));
  }

  CLI::App& command_;
  std::string name_;
};

void add_adapter_flags(CLI::App& command, ServeOptions& options) {
  Group group(command, "Adapters");
  group.add("--adapter-dir", options.adapter_dir,
            "Directory of adapters: a request's adapter_id is a path below it. No file outside is "
            "ever opened. Without it only the base model is served");
  group.add("--adapter-root", options.adapter_roots,
            "Further directory that links below --adapter-dir may lead to, such as a Hub cache "
            "whose snapshots are links");
  group.add("--adapter-id", options.adapter_id, "Adapter of requests that name none");
  group.add("--preloaded-adapter-ids", options.preloaded_adapter_ids,
            "Adapters to load before the server is ready; others load when asked for");
  group.add("--adapter-source", options.adapter_source, "Where adapters come from: local")
      ->capture_default_str();
  group.add("--default-adapter-source", options.default_adapter_source,
            "The same for requests that name no source (default: --adapter-source)");
  group
      .add("--max-active-adapters", options.max_active_adapters,
           "Adapters that one batch can use at most")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  group
      .add("--adapter-memory-fraction", options.adapter_memory_fraction,
           "Share of a GPU's memory that adapters take; on a CPU, of the memory left beside the "
           "weights")
      ->check(CLI::Range(0.0, 0.95))
      ->capture_default_str();
  group.add("--ignore-adapter-config-key", options.ignored_adapter_config_keys, kIgnoredKeysHelp)
      ->allow_extra_args(false);
  group.add_flag("--allow-runtime-adapters", options.allow_runtime_adapters,
                 "Offer POST /v1/load_lora_adapter and /v1/unload_lora_adapter");
}

void add_request_flags(CLI::App& command, ServeOptions& options) {
  Group group(command, "Limits of a request");
  group
      .add("--max-concurrent-requests", options.max_concurrent_requests,
           "Requests queued or running; others get status 429. No adapter gets all: the last ninth "
           "is for those that have few")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  group
      .add(
          "--max-concurrent-requests-per-adapter", options.max_concurrent_requests_per_adapter,
          "Of these, the most of one adapter, or of the base model (default: no limit beside that)")
      ->check(CLI::Range(1, 1 << 20));
  group.add("--max-best-of", options.max_best_of, "Largest best_of and n")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  group.add("--max-stop-sequences", options.max_stop_sequences, "Stop strings of a request")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  group
      .add("--max-input-length", options.max_input_length,
           "Tokens of a prompt (default: --max-total-tokens - 1)")
      ->check(CLI::PositiveNumber);
  group
      .add("--max-total-tokens", options.max_total_tokens,
           "Tokens of a prompt and what is generated for it (default: as many as the model has "
           "positions)")
      ->check(CLI::PositiveNumber);
  group
      .add("--max-request-time", options.max_request_time,
           "Seconds after which a request ends, queued or running; 0: never")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  group.add("--watermark-gamma", options.watermark_gamma, "Share of the watermark's green tokens")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  group.add("--watermark-delta", options.watermark_delta, "What is added to their logits")
      ->capture_default_str();
}

void add_step_flags(CLI::App& command, ServeOptions& options) {
  Group group(command, "Limits of a step");
  group
      .add("--max-batch-size", options.max_batch_size,
           "Sequences that run at once (default: 64 on a CPU, 256 on a GPU)")
      ->check(CLI::Range(1, 4096));
  group
      .add("--max-batch-prefill-tokens", options.max_batch_prefill_tokens,
           "Tokens of one step, over all sequences: what a running stream waits for at most "
           "(default: 256 on a CPU, 2048 on a GPU)")
      ->check(CLI::PositiveNumber);
  group
      .add("--max-batch-total-tokens", options.max_batch_total_tokens,
           "Tokens of KV memory (default: what memory allows)")
      ->check(CLI::PositiveNumber);
  group.add_switch("--chunked-prefill", options.chunked_prefill,
                   "Cut long prompts, so that they stall no running stream");
  group.add_switch("--prefix-caching", options.prefix_caching,
                   "Keep the KV pages of prompts and texts for those that begin alike");
}

void add_server_flags(CLI::App& command, ServeOptions& options) {
  Group group(command, "Server");
  // Containers set HOSTNAME to their own name, so it is not read.
  group.add("--hostname", options.hostname, "Address to listen on; 0.0.0.0: all")
      ->envname("")
      ->capture_default_str();
  group.add("-p,--port", options.port, "Port to listen on; 0: any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  group
      .add("--api-key", options.api_key,
           "Clients must send it as Authorization: Bearer; better given as LORAX_API_KEY")
      ->envname("LORAX_API_KEY");
  group.add("--api-key-file", options.api_key_file,
            "JSON file of several keys: each has a name, the adapters that it sees, and limits "
            "(docs/api.md). Read again when it changes, and at SIGUSR1");
  group.add_flag("--protect-status", options.protect_status,
                 "/metrics, /docs and /api-doc/openapi.json need an API key, too");
  group.add_flag("--share-prefixes", options.share_prefixes,
                 "API keys share the prefix cache: faster, and times then tell one of them what "
                 "another has sent");
  group.add("--served-model-name", options.served_model_names,
            "What clients call the model; the first is what answers say (default: the last part of "
            "--model-id)");
  group.add("--allowed-host", options.allowed_hosts,
            "Names in the Host header under which requests are taken, such as api.example.org or "
            "*.example.org (default: any)");
  group.add("--cors-allow-origin", options.cors_allow_origin, "Default: any");
  group.add("--cors-allow-method", options.cors_allow_method, "Default: GET, POST");
  group.add("--cors-allow-header", options.cors_allow_header,
            "Default: whatever a browser asks for");
  group.add("--cors-expose-header", options.cors_expose_header, "Default: none");
  group.add_flag("--cors-allow-credentials", options.cors_allow_credentials, "Default: no");
  group
      .add("--log-level", options.log_level,
           "debug, info (with a line per request), warning or error: what is logged")
      ->transform(CLI::CheckedTransformer(kLogLevels, CLI::ignore_case))
      ->type_name("LEVEL")
      ->default_str("info");
  group.add("--log-format", options.log_format, "text or json, of every line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  group.add_flag("--json-output", options.json_output, "As --log-format json");
  group
      .add(
          "--validation-workers", options.validation_workers,
          "Threads that resolve adapters, render templates and tokenise, shared fairly by adapters")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  group
      .add("--health-timeout", options.health_timeout,
           "Seconds that one step, or a wait of all adapters, may take before /health says 503; "
           "0: any")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  group
      .add("--drain-delay", options.drain_delay,
           "Seconds at SIGTERM in which /health says 503 and requests are still taken, so that "
           "load balancers turn away first")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  group
      .add("--shutdown-time", options.shutdown_time,
           "Seconds that running requests have at SIGTERM")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

void add_connection_flags(CLI::App& command, ServeOptions& options) {
  Group group(command, "Connections");
  group
      .add("--max-connections", options.max_connections,
           "Connections at once; beyond them idle ones give way, or new ones get status 503")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  group
      .add("--max-connections-per-address", options.max_connections_per_address,
           "Of these from one address; 0: all, as behind a proxy")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  group.add("--max-body-bytes", options.max_body_bytes, "Of a request; beyond it: status 413")
      ->check(CLI::Range(int64_t{1} << 10, int64_t{1} << 30))
      ->capture_default_str();
  group
      .add("--header-timeout", options.header_timeout,
           "Seconds from a request's first byte to the end of its headers; then status 408")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  group
      .add("--body-timeout", options.body_timeout,
           "Seconds from there to the end of its body; then status 408")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
  group
      .add("--idle-timeout", options.idle_timeout,
           "Seconds that a connection may be without a request")
      ->check(CLI::Range(0.01, 86400.0))
      ->capture_default_str();
}

}  // namespace

void ServeOptions::add_to(CLI::App& command) {
  add_model_flag(command, model_id);
  device.add_to(command);
  command.get_option("--cuda-memory-fraction")->envname("CUDA_MEMORY_FRACTION");
  add_load_format_flag(command, load_format);
  Group model(command, "Chat");
  model.add("--tokenizer-config-path", tokenizer_config_path,
            "A tokenizer_config.json whose chat template replaces the model's");
  model.add_flag("--refuse-system-role", refuse_system_role,
                 "Refuse system messages where the model's template does, instead of putting them "
                 "in front of the first user message");
  add_adapter_flags(command, *this);
  add_request_flags(command, *this);
  add_step_flags(command, *this);
  add_server_flags(command, *this);
  add_connection_flags(command, *this);
  add_launcher_flags(command, without_effect);
}

void ServeOptions::check() const {
  for (const std::string& source : {adapter_source, default_adapter_source}) {
    if (!source.empty() && source != "local") {
      fail("adapter source \"{}\" is not supported; local is, with --adapter-dir", source);
    }
  }
  if (adapter_dir.empty() && !adapter_roots.empty()) {
    fail("--adapter-root permits what links below --adapter-dir lead to; give that, too");
  }
  if (adapter_dir.empty() && (!adapter_id.empty() || !preloaded_adapter_ids.empty())) {
    fail("--adapter-id and --preloaded-adapter-ids name adapters below --adapter-dir; give it");
  }
  if (max_total_tokens > 0 && max_input_length >= max_total_tokens) {
    fail("--max-input-length {} must be less than --max-total-tokens {}", max_input_length,
         max_total_tokens);
  }
  if (!chunked_prefill && max_batch_prefill_tokens > 0 &&
      max_batch_prefill_tokens < max_input_length) {
    fail(
        "--max-batch-prefill-tokens {} is less than --max-input-length {}: raise it, or leave "
        "--chunked-prefill on",
        max_batch_prefill_tokens, max_input_length);
  }
}

}  // namespace lorax::cli

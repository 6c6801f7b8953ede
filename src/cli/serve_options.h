// The flags of `lorax serve`: LoRAX's launcher's under the same names, each also read from the
// environment variable of its name in upper case (MAX_BEST_OF), but for --hostname; and our own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/App.hpp>

#include "cli/options.h"
#include "server/observe/log.h"

namespace lorax::cli {

struct ServeOptions {
  // What is served.
  std::string model_id;
  DeviceFlags device;
  std::string load_format = "auto";
  std::string tokenizer_config_path;  // its chat template replaces the model's
  bool refuse_system_role = false;    // where the template does, instead of folding it

  // Adapters.
  std::string adapter_dir;
  std::vector<std::string> adapter_roots;  // that links below it may lead to
  std::string adapter_id;                  // of requests that name none
  std::vector<std::string> preloaded_adapter_ids;
  std::string adapter_source = "local";
  std::string default_adapter_source;
  int max_active_adapters = 1024;
  double adapter_memory_fraction = 0.1;
  std::vector<std::string> ignored_adapter_config_keys;
  bool allow_runtime_adapters = false;

  // Limits of a request. 0: as the model allows.
  int64_t max_concurrent_requests = 1024;
  int64_t max_concurrent_requests_per_adapter = 0;
  int64_t max_best_of = 2;
  int64_t max_stop_sequences = 4;
  int64_t max_input_length = 0;
  int64_t max_total_tokens = 0;
  double max_request_time = 0.0;  // seconds; 0: none

  // Limits of a step. 0: chosen at start.
  int64_t max_batch_size = 0;
  int64_t max_batch_prefill_tokens = 0;
  int64_t max_batch_total_tokens = 0;
  bool chunked_prefill = true;
  bool prefix_caching = true;
  float watermark_gamma = 0.5f;
  float watermark_delta = 2.0f;

  // The server.
  std::string hostname = "127.0.0.1";
  int port = 3000;
  std::string api_key;
  std::string api_key_file;
  bool protect_status = false;
  bool share_prefixes = false;  // between API keys
  std::vector<std::string> served_model_names;
  std::vector<std::string> allowed_hosts;
  std::vector<std::string> cors_allow_origin;
  std::vector<std::string> cors_allow_method;
  std::vector<std::string> cors_allow_header;
  std::vector<std::string> cors_expose_header;
  bool cors_allow_credentials = false;
  LogLevel log_level = LogLevel::kInfo;
  std::string log_format = "text";  // or "json"
  bool json_output = false;         // the launcher's name for log_format json
  int validation_workers = 2;
  int64_t max_connections = 4096;
  int64_t max_connections_per_address = 2048;  // 0: any
  int64_t max_body_bytes = int64_t{2} << 20;
  double header_timeout = 10.0;  // seconds, as the next two
  double body_timeout = 60.0;
  double idle_timeout = 75.0;
  double drain_delay = 0.0;       // seconds between a signal and the end of taking requests
  double health_timeout = 120.0;  // seconds; 0: none
  double shutdown_time = 30.0;    // seconds for what runs at SIGTERM

  // Flags of the launcher that mean nothing here and were given: "--waiting-served-ratio", ...
  std::vector<std::string> without_effect;

  void add_to(CLI::App& command);
  // Throws Error for values that exclude each other, or that a later version brings.
  void check() const;
};

}  // namespace lorax::cli

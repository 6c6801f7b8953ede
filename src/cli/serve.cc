// lorax serve: the model and its adapters behind LoRAX's and OpenAI's REST API.
#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_from.hpp>

#include "base/error.h"
#include "base/out_of_memory.h"
#include "cli/commands.h"
#include "cli/key_file_watcher.h"
#include "cli/serve_options.h"
#include "cli/stop_signal.h"
#include "engine/engine.h"
#include "server/api.h"
#include "server/api/adapter_directory.h"
#include "server/api/api_keys.h"
#include "server/api/router.h"
#include "server/api/template_chat_renderer.h"
#include "server/api/worker_pool.h"
#include "server/http/http_server.h"
#include "server/http/url.h"
#include "server/observe/access_log.h"
#include "server/observe/health.h"
#include "server/observe/log.h"
#include "server/observe/metrics.h"
#include "text/tokenizer.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;
using std::chrono::milliseconds;

milliseconds to_milliseconds(double seconds) {
  return milliseconds(static_cast<int64_t>(seconds * 1e3));
}

LogOptions log_options(const ServeOptions& options) {
  LogOptions log;
  log.level = options.log_level;
  const bool is_json = options.json_output || options.log_format == "json";
  log.format = is_json ? LogFormat::kJson : LogFormat::kText;
  return log;
}

ChatTemplates chat_templates(const ServeOptions& options) {
  return options.tokenizer_config_path.empty()
             ? load_chat_templates(options.model_id)
             : load_chat_template_file(options.tokenizer_config_path);
}

std::optional<std::filesystem::path> adapter_directory(const ServeOptions& options) {
  if (options.adapter_dir.empty()) return std::nullopt;
  return options.adapter_dir;
}

std::vector<std::string> served_names(const ServeOptions& options) {
  if (!options.served_model_names.empty()) return options.served_model_names;
  std::filesystem::path path = std::filesystem::path(options.model_id).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  std::error_code error;
  const bool names_none = path.empty() || path.filename() == "." || path.filename() == "..";
  if (names_none) path = std::filesystem::canonical(options.model_id, error);
  const std::string name = path.filename().string();
  return {name.empty() ? "model" : name};
}

// None are served without a directory.
uint64_t adapter_bytes(const ServeOptions& options, LoadedModel& model) {
  if (options.adapter_dir.empty()) return 0;
  // Of memory that is the host's, others use some.
  const Device& device = model.device();
  const uint64_t whole =
      device.memory_is_host() ? device.available_memory() : device.total_memory();
  return static_cast<uint64_t>(options.adapter_memory_fraction * static_cast<double>(whole));
}

EngineOptions base_engine_options(const ServeOptions& options, LoadedModel& model, Log& log) {
  EngineOptions engine;
  engine.max_total_tokens = options.max_total_tokens;
  engine.max_input_tokens = options.max_input_length;
  engine.max_concurrent_requests = options.max_concurrent_requests;
  engine.max_concurrent_requests_per_adapter = options.max_concurrent_requests_per_adapter;
  engine.shares_places = !options.adapter_dir.empty();
  engine.max_running_sequences = options.max_batch_size;
  engine.step_tokens = options.max_batch_prefill_tokens;
  engine.chunked_prefill = options.chunked_prefill;
  engine.prefix_cache = options.prefix_caching;
  engine.kv_blocks = options.max_batch_total_tokens / KvCache::kBlockSize;
  engine.adapter_slots = options.max_active_adapters;
  engine.adapter_bytes = adapter_bytes(options, model);
  engine.base_name = options.model_id;
  engine.ignored_adapter_config_keys = options.ignored_adapter_config_keys;
  engine.on_warning = [&log](const std::string& warning) { log.warn_once(warning); };
  return engine;
}

HttpServerOptions http_options(const ServeOptions& options, Log& log) {
  HttpServerOptions http;
  http.hostname = options.hostname;
  http.port = static_cast<uint16_t>(options.port);
  http.max_connections = static_cast<size_t>(options.max_connections);
  http.max_connections_per_address = static_cast<size_t>(options.max_connections_per_address);
  http.limits.body_bytes = static_cast<size_t>(options.max_body_bytes);
  http.header_timeout = to_milliseconds(options.header_timeout);
  http.body_timeout = to_milliseconds(options.body_timeout);
  http.idle_timeout = to_milliseconds(options.idle_timeout);
  http.access_log = [&log](const AccessRecord& record) {
    const LogLevel level = level_of(record);
    if (log.shows(level)) log.print(level, access_line(record, log.format(), log.now()));
  };
  http.error_log = [&log](std::string_view line) { log.error(line); };
  return http;
}

RouterOptions router_options(const ServeOptions& options, std::shared_ptr<const ApiKeys> keys) {
  RouterOptions router;
  router.keys = std::move(keys);
  router.allowed_hosts = options.allowed_hosts;
  const auto replace = [](std::vector<std::string>& value, const std::vector<std::string>& given) {
    if (!given.empty()) value = given;
  };
  replace(router.cors.allow_origins, options.cors_allow_origin);
  replace(router.cors.allow_methods, options.cors_allow_method);
  replace(router.cors.allow_headers, options.cors_allow_header);
  replace(router.cors.expose_headers, options.cors_expose_header);
  router.cors.allow_credentials = options.cors_allow_credentials;
  return router;
}

// A line that nobody is let down for, if there is no memory for it.
template <typename... Args>
void tell(Log& log, fmt::format_string<Args...> format, Args&&... args) noexcept {
  try {
    log.info(fmt::format(format, std::forward<Args>(args)...));
  } catch (...) {
  }
}

// Of a request whose handler has thrown; the transport answers it with 500.
void report_failure(Log& log, const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& exception) {
    log.error(fmt::format("a request has failed: {}", exception.what()));
  } catch (...) {
    log.error("a request has failed");
  }
}

void report_health(Log& log, const std::string& fault) {
  fault.empty() ? log.info("/health says 200 again") : log.error("/health says 503: " + fault);
}

// Everything that serves, in the order in which each stands on those before it.
class Serving {
 public:
  // `on_failed` is called when the engine has failed.
  Serving(const ServeOptions& options, Log& log,
          const std::function<void(const std::string& error)>& on_failed)
      : options_(options),
        log_(log),
        keys_(std::make_shared<ApiKeys>(options.api_key)),
        key_file_(watch_keys()),
        tokenizer_(load_model_tokenizer(options.model_id)),
        adapters_(adapter_directory(options), options.adapter_id,
                  {options.adapter_roots.begin(), options.adapter_roots.end()}),
        chat_(chat_templates(options), *tokenizer_, {.fold_system = !options.refuse_system_role},
              adapters_.bounds()),
        model_(load_model(options.model_id, options.device, options.load_format)),
        engine_(model_, tokenizer_.get(), engine_options(on_failed)),
        health_({.engine_works = [this] { return engine_.healthy(); },
                 .engine_busy = [this] { return engine_.busy_for(); },
                 .loaders_stuck = [this] { return engine_.adapters().stuck_for(); },
                 .on_change = [&log](const std::string& fault) { report_health(log, fault); }},
                to_milliseconds(options.health_timeout)),
        metrics_({.service = &engine_,
                  .adapters = [this] { return engine_.adapters().stats(); },
                  .adapter_name = [this](const std::string& id) { return adapters_.name_of(id); },
                  .block_size = KvCache::kBlockSize,
                  .dropped_log_lines = [&log] { return log.dropped(); }}),
        preloaded_(preload()),
        workers_({.threads = options.validation_workers,
                  .most_pending = std::max<int64_t>(options.max_concurrent_requests, 64)},
                 [&log](const std::exception_ptr& error) { report_failure(log, error); }),
        server_(http_options(options, log), make_router()) {}

  void announce() {
    if (log_.format() == LogFormat::kJson) {
      log_.print(LogLevel::kInfo, json_report());
    } else {
      for (const std::string& line : text_report()) {
        log_.print(LogLevel::kInfo, text_line_start(LogLevel::kInfo, log_.now()) + line);
      }
    }
  }

  // From now on /health says that no new requests should come here; they are taken nevertheless.
  void drain() { health_.drain(); }

  // Takes no more requests, and gives those that run their time. False if threads hang in the file
  // system: nobody can wait for them.
  bool stop() {
    server_.stop_accepting();
    engine_.stop(to_milliseconds(options_.shutdown_time));
    server_.stop(std::chrono::seconds(5));
    return workers_.stop(std::chrono::seconds(2));
  }

 private:
  // No step runs before the server takes requests, and it is made last.
  EngineOptions engine_options(const std::function<void(const std::string& error)>& on_failed) {
    EngineOptions engine = base_engine_options(options_, model_, log_);
    engine.adapter_bounds = adapters_.bounds();
    engine.on_step = [this](const StepReport& report) { metrics_.on_step(report); };
    engine.on_failed = on_failed;
    return engine;
  }

  std::unique_ptr<KeyFileWatcher> watch_keys() {
    if (options_.api_key_file.empty()) return nullptr;
    return std::make_unique<KeyFileWatcher>(*keys_, options_.api_key_file,
                                            [this](const std::string& line) { log_.info(line); });
  }

  std::vector<AdapterPin> preload() {
    std::vector<std::string> ids;
    for (const std::string& name : options_.preloaded_adapter_ids) {
      ids.push_back(adapters_.resolve(name));
    }
    return engine_.adapters().load_now(ids);
  }

  ApiSettings api_settings() {
    ApiSettings settings;
    settings.model_id = served_names(options_).front();
    settings.model_names = served_names(options_);
    settings.model_names.erase(settings.model_names.begin());
    settings.model_path = options_.model_id;
    settings.shares_prefixes = options_.share_prefixes;
    settings.protects_status = options_.protect_status;
    settings.model_dtype = fmt::format("torch.{}", name_of(model_.dtype()));
    settings.device_type = options_.device.device.substr(0, options_.device.device.find(':'));
    settings.version = LORAX_VERSION;
    settings.max_batch_total_tokens = engine_.plan().runner.kv_blocks * KvCache::kBlockSize;
    settings.started = std::chrono::duration_cast<std::chrono::seconds>(
                           std::chrono::system_clock::now().time_since_epoch())
                           .count();
    settings.eos_token_ids = model_.info().eos_token_ids;
    settings.vocab_size = static_cast<int32_t>(model_.info().vocab_size);
    settings.max_best_of = std::min(options_.max_best_of, engine_.limits().max_of_one_flow);
    settings.max_stop_sequences = options_.max_stop_sequences;
    settings.watermark_gamma = options_.watermark_gamma;
    settings.watermark_delta = options_.watermark_delta;
    settings.max_request_time = options_.max_request_time > 0
                                    ? to_milliseconds(options_.max_request_time)
                                    : std::chrono::hours(24 * 365);
    settings.allow_runtime_adapters = options_.allow_runtime_adapters;
    settings.has_memory = has_memory_reserve;
    settings.refresh_adapter = [this](const std::string& id) { engine_.adapters().refresh(id); };
    settings.forget_adapter = [this](const std::string& id) { engine_.adapters().forget(id); };
    settings.fault = [this] { return health_.fault(); };
    settings.is_draining = [this] { return health_.is_draining(); };
    settings.metrics = [this](const HttpRequest& request) { return answer_metrics(request); };
    return settings;
  }

  HttpResponse answer_metrics(const HttpRequest& request) const {
    const auto sees = [&request](const std::string& adapter_names) {
      return sees_adapter(request.tenant.get(), adapter_names);
    };
    const std::string_view accept = request.header("accept").value_or("");
    HttpResponse response;
    if (accept.find("application/json") != std::string_view::npos) {
      response.body = metrics_.json(sees);
    } else {
      response.content_type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = metrics_.text(sees);
    }
    return response;
  }

  Router make_router() {
    Router router(router_options(options_, keys_));
    const ApiContext context{engine_,  *tokenizer_, adapters_,     chat_,
                             metrics_, workers_,    api_settings()};
    for (const ApiRoute& route : make_api_routes(context)) {
      router.add(route.method, route.path, route.handler,
                 route.is_open ? RouteAccess::kOpen : RouteAccess::kKey);
    }
    return router;
  }

  std::string url() const {
    return "http://" + authority_of(options_.hostname, static_cast<uint16_t>(server_.port()));
  }

  std::vector<std::string> text_report() {
    const EnginePlan& plan = engine_.plan();
    const auto gigabytes = [](uint64_t bytes) { return static_cast<double>(bytes) * 1e-9; };
    std::vector<std::string> lines;
    const auto add = [&lines]<typename... Args>(fmt::format_string<Args...> format,
                                                Args&&... args) {
      lines.push_back(loggable(fmt::format(format, std::forward<Args>(args)...)));
    };
    add("lorax {} serves {} ({} {}, {:.2f} GB) on {}", LORAX_VERSION, options_.model_id,
        model_.info().model_type, name_of(model_.dtype()), gigabytes(model_.weight_bytes()),
        model_.device().describe());
    add("  memory     {}", plan.memory.describe());
    add("  KV memory  {:.2f} GB: {} tokens in pages of {}; prefix cache {}",
        gigabytes(plan.memory.kv), plan.runner.kv_blocks * KvCache::kBlockSize, KvCache::kBlockSize,
        plan.scheduler.prefix_cache ? "on" : "off");
    add("  requests   {} at once, {} of them running; {} tokens each, prompts {}",
        plan.limits.max_concurrent_requests, plan.scheduler.max_running,
        plan.limits.max_total_tokens, plan.limits.max_input_tokens);
    add("  steps      up to {} tokens; chunked prefill {}", plan.scheduler.step_tokens,
        plan.scheduler.chunked_prefill ? "on" : "off");
    if (options_.adapter_dir.empty()) {
      add("  adapters   none: start with --adapter-dir to serve some");
    } else {
      add("  adapters   {} in {}; {:.2f} GB, {} at once", adapters_.list().size(),
          options_.adapter_dir, gigabytes(plan.store.device_budget), plan.store.slots);
    }
    if (!options_.without_effect.empty()) {
      add("  no effect  {}", fmt::join(options_.without_effect, ", "));
    }
    add("{}  (docs at /docs, metrics at /metrics{})", url(),
        keys_->empty() ? "" : ", with an API key");
    return lines;
  }

  // A line of the log, with all that is in the text and more.
  std::string json_report() {
    JsonWriter line = json_line_start(LogLevel::kInfo, log_.now());
    for (const auto& [key, value] : json_report_fields()) {
      line.key(std::string_view(key)).raw(json::serialize(value));
    }
    return line.end_object().take();
  }

  json::object json_report_fields() {
    const EnginePlan& plan = engine_.plan();
    return {{"message", "ready"},
            {"url", url()},
            {"version", LORAX_VERSION},
            {"model_id", options_.model_id},
            {"dtype", name_of(model_.dtype())},
            {"device", model_.device().describe()},
            {"weight_bytes", model_.weight_bytes()},
            {"memory_bytes", plan.memory.total},
            {"memory_limit_bytes", plan.memory.limit},
            {"elsewhere_bytes", plan.memory.elsewhere},
            {"graph_bytes", plan.memory.graphs},
            {"graphs", engine_.graph_stats().graphs},
            {"graph_bytes_taken", engine_.graph_stats().bytes},
            {"graph_seconds", engine_.graph_stats().seconds},
            {"warm_up_seconds", engine_.warm_up_seconds()},
            {"kv_bytes", plan.memory.kv},
            {"kv_tokens", plan.runner.kv_blocks * KvCache::kBlockSize},
            {"workspace_bytes", plan.memory.workspace},
            {"adapter_bytes", plan.memory.adapters},
            {"free_bytes", model_.device().available_memory()},
            {"max_running", plan.scheduler.max_running},
            {"step_tokens", plan.scheduler.step_tokens},
            {"max_total_tokens", plan.limits.max_total_tokens},
            {"adapters", adapters_.list().size()},
            {"without_effect", json::value_from(options_.without_effect)}};
  }

  const ServeOptions& options_;
  Log& log_;
  std::shared_ptr<ApiKeys> keys_;
  std::unique_ptr<KeyFileWatcher> key_file_;
  std::unique_ptr<Tokenizer> tokenizer_;
  AdapterDirectory adapters_;
  TemplateChatRenderer chat_;
  LoadedModel model_;
  Engine engine_;
  Health health_;
  Metrics metrics_;
  std::vector<AdapterPin> preloaded_;
  WorkerPool workers_;
  HttpServer server_;
};

// Until a signal comes, or the engine has failed: a supervisor can start the program anew, while a
// server without its engine could only refuse.
void serve(const ServeOptions& options, Log& log) {
  StopSignal signal;
  std::atomic<bool> failed = false;
  Serving serving(options, log, [&](const std::string& error) {
    log.error(error);
    failed = true;
    signal.raise();
  });
  signal.start();
  serving.announce();
  signal.wait();
  serving.drain();
  if (!failed && options.drain_delay > 0) {
    tell(log, "/health says 503; requests are taken for another {} s", options.drain_delay);
    signal.wait_for(to_milliseconds(options.drain_delay));
  }
  if (!failed) {
    tell(log, "stopping; requests that run have {} s", options.shutdown_time);
  }
  const bool stopped = serving.stop();
  if (failed) log.error("ended, because the engine has failed");
  if (!stopped) {
    log.warning("the adapters' file system does not answer; ending without it");
    log.close();
    std::_Exit(failed ? EXIT_FAILURE : EXIT_SUCCESS);
  }
  if (failed) throw Exit{1};
}

void run(const ServeOptions& options) {
  options.check();
  signal(SIGPIPE, SIG_IGN);
  KeyFileWatcher::hold_signal();
  set_memory_reserve_aside();
  Log log(log_options(options));
  try {
    serve(options, log);
  } catch (const std::exception&) {
    if (log.format() == LogFormat::kText) throw;
    const std::exception_ptr error = std::current_exception();
    log.error(is_out_of_memory(error) ? describe_out_of_memory(error) : message_of(error));
    throw Exit{1};
  }
}

}  // namespace

void add_serve_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "serve", "Serve the model and its adapters over LoRAX's and OpenAI's REST API");
  auto options = std::make_shared<ServeOptions>();
  options->add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

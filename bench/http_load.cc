// http_load: requests per second, events per second and latencies of an HTTP server under load.
#include <fmt/format.h>

#include <exception>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "completion_bodies.h"
#include "load_client.h"

namespace {

namespace json = boost::json;
using lorax::CompletionPlan;
using lorax::LoadPlan;
using lorax::LoadResult;
using lorax::percentile;

constexpr double kPercentiles[] = {0.5, 0.9, 0.99};

// One body per line.
std::vector<std::string> read_bodies(const std::string& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error("cannot read " + file);
  std::vector<std::string> bodies;
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) bodies.push_back(line);
  }
  if (bodies.empty()) throw std::runtime_error(file + " holds no body");
  return bodies;
}

void print_times(const char* what, std::vector<double>& seconds) {
  if (seconds.empty()) return;
  fmt::print("{:<22}p50 {:.3f} ms   p90 {:.3f} ms   p99 {:.3f} ms   max {:.3f} ms\n", what,
             percentile(seconds, kPercentiles[0]) * 1e3, percentile(seconds, kPercentiles[1]) * 1e3,
             percentile(seconds, kPercentiles[2]) * 1e3, percentile(seconds, 1) * 1e3);
}

void print_text(LoadResult& result) {
  fmt::print("{} requests and {} events in {:.2f} s\n", result.requests, result.events,
             result.elapsed);
  fmt::print("{:<22}{:.1f}\n", "requests/s", static_cast<double>(result.requests) / result.elapsed);
  fmt::print("{:<22}{:.1f}\n", "events/s", static_cast<double>(result.events) / result.elapsed);
  print_times("latency", result.latencies);
  print_times("time to first event", result.first_events);
  print_times("time between events", result.event_gaps);
  for (const auto& [what, count] : result.errors) fmt::print("error: {} x {}\n", count, what);
}

json::value times(std::vector<double>& seconds) {
  if (seconds.empty()) return nullptr;
  return json::object{{"p50", percentile(seconds, 0.5) * 1e3},
                      {"p90", percentile(seconds, 0.9) * 1e3},
                      {"p99", percentile(seconds, 0.99) * 1e3},
                      {"max", percentile(seconds, 1) * 1e3}};
}

void print_json(LoadResult& result) {
  json::object errors;
  for (const auto& [what, count] : result.errors) errors[what] = count;
  const json::object object = {
      {"seconds", result.elapsed},
      {"requests", result.requests},
      {"events", result.events},
      {"bytes", result.bytes},
      {"requests_per_second", static_cast<double>(result.requests) / result.elapsed},
      {"events_per_second", static_cast<double>(result.events) / result.elapsed},
      {"latency_ms", times(result.latencies)},
      {"first_event_ms", times(result.first_events)},
      {"event_gap_ms", times(result.event_gaps)},
      {"errors", errors},
  };
  fmt::print("{}\n", json::serialize(object));
}

void add_completion_flags(CLI::App& app, CompletionPlan& plan) {
  const auto add = [&](const char* flag, auto& value, const char* help) {
    app.add_option(flag, value, help)->capture_default_str()->group("Generated completions");
  };
  add("--prompt-tokens", plan.prompt_tokens, "random ids; instead of --body, to /v1/completions");
  add("--max-tokens", plan.max_tokens, "to generate for each");
  add("--vocab", plan.vocab_size, "ids are below it");
  add("--adapters", plan.adapters, "0: the base model");
  add("--adapter-name", plan.adapter_name, "before the adapter's number");
  add("--first-adapter", plan.first_adapter, "number of the first");
  add("--zipf", plan.zipf, "exponent of the adapters' shares; -1: they take turns");
  add("--bodies", plan.bodies, "different ones");
  add("--seed", plan.seed, "of ids and adapters");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Load for an HTTP server; exits with 1 if any request failed.");
  LoadPlan plan;
  CompletionPlan completions;
  std::string body_file;
  bool as_json = false;
  app.add_option("--host", plan.host)->capture_default_str();
  app.add_option("-p,--port", plan.port)->capture_default_str();
  app.add_option("--path", plan.path)->capture_default_str();
  app.add_option("--body", plan.bodies, "JSON to POST; several are sent in turn; none: GET");
  app.add_option("--body-file", body_file, "a file with one JSON body per line");
  app.add_option("--header", plan.headers, "\"name: value\", for every request");
  app.add_option("-c,--concurrency", plan.connections)->capture_default_str();
  app.add_option("-s,--seconds", plan.seconds)->capture_default_str();
  app.add_option("-n,--requests", plan.requests, "end after so many instead of --seconds");
  app.add_option("--timeout", plan.timeout, "of one request, in seconds")->capture_default_str();
  app.add_option("--pause", plan.pause, "seconds between requests of a connection, at most")
      ->capture_default_str();
  app.add_flag("--allow-remote", plan.allow_remote, "load a host that is not this machine");
  app.add_flag("--json", as_json);
  add_completion_flags(app, completions);
  CLI11_PARSE(app, argc, argv);
  try {
    if (app.count("--prompt-tokens") > 0) {
      plan.path = "/v1/completions";
      plan.bodies = make_completion_bodies(completions);
    }
    if (!body_file.empty()) plan.bodies = read_bodies(body_file);
    LoadResult result = lorax::run_load(plan);
    as_json ? print_json(result) : print_text(result);
    return result.errors.empty() ? 0 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "http_load: {}\n", error.what());
    return 1;
  }
}

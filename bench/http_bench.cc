// The cost of the HTTP transport alone: requests per second of a handler that does nothing, and
// microseconds per server-sent event of streams that a thread feeds as an engine does. Server and
// load are two processes of this machine, so that the CPU time of each is known.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "load_client.h"
#include "server/api/router.h"
#include "server/http/http_server.h"
#include "server/http/sse.h"

namespace {

using namespace lorax;

constexpr int kEventsPerStream = 256;

// Gives every stream one event per step, as an engine whose steps take no time.
class Producer {
 public:
  explicit Producer(int step_us) : step_us_(step_us), thread_([this] { run(); }) {}
  ~Producer() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void add(std::shared_ptr<ResponseWriter> writer) {
    const std::lock_guard lock(mutex_);
    streams_.push_back({std::move(writer), 0});
    changed_.notify_all();
  }

 private:
  struct Stream {
    std::shared_ptr<ResponseWriter> writer;
    int sent = 0;
  };

  void run() {
    const std::string event = sse_event(
        "{\"token\":{\"id\":12345,\"text\":\" word\",\"logprob\":-0.123456,\"special\":false},"
        "\"generated_text\":null,\"details\":null}");
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      changed_.wait(lock, [&] { return stopping_ || !streams_.empty(); });
      std::erase_if(streams_, [](const Stream& stream) { return stream.sent == kEventsPerStream; });
      for (Stream& stream : streams_) {
        stream.writer->write(event);
        if (++stream.sent == kEventsPerStream) stream.writer->finish();
      }
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(step_us_));
      lock.lock();
    }
  }

  const int step_us_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Stream> streams_;
  bool stopping_ = false;
  std::thread thread_;
};

// Serves until `stop` is closed, after it has written its port to `ready`.
void serve(int threads, int step_us, int ready, int stop) {
  Producer producer(step_us);
  Router router;
  router.add("POST", "/trivial", [](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    HttpResponse response;
    response.body = "{}";
    writer->respond(std::move(response));
  });
  router.add("POST", "/stream", [&](HttpRequest, std::shared_ptr<ResponseWriter> writer) {
    begin_event_stream(*writer);
    producer.add(std::move(writer));
  });
  HttpServerOptions options;
  options.port = 0;
  options.threads = threads;
  HttpServer server(options, router);
  const uint16_t port = server.port();
  if (::write(ready, &port, sizeof(port)) != sizeof(port)) return;
  char byte;
  while (::read(stop, &byte, 1) > 0) {
  }
  server.stop(std::chrono::milliseconds(0));
}

struct Measured {
  LoadResult load;
  double server_cpu = 0;  // seconds
};

Measured measure(int threads, int step_us, LoadPlan plan) {
  int ready[2];
  int stop[2];
  if (::pipe(ready) != 0 || ::pipe(stop) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("no process");
  if (child == 0) {
    ::close(stop[1]);
    serve(threads, step_us, ready[1], stop[0]);
    ::_exit(0);
  }
  ::close(ready[1]);
  ::close(stop[0]);
  uint16_t port = 0;
  if (::read(ready[0], &port, sizeof(port)) != sizeof(port)) throw std::runtime_error("no server");
  plan.port = std::to_string(port);
  Measured measured;
  measured.load = run_load(plan);
  ::close(ready[0]);
  ::close(stop[1]);
  rusage usage{};
  int status = 0;
  ::wait4(child, &status, 0, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  measured.server_cpu = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  return measured;
}

void print(const char* what, double count, Measured& measured, std::vector<double>& times) {
  fmt::print("{:<9}{:>9.0f}/s   {:>6.2f} us of server CPU each   p50 {:.2f} ms   p99 {:.2f} ms\n",
             what, count / measured.load.elapsed, measured.server_cpu / count * 1e6,
             percentile(times, 0.5) * 1e3, percentile(times, 0.99) * 1e3);
  for (const auto& [error, n] : measured.load.errors) fmt::print("error: {} x {}\n", n, error);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The cost of the HTTP transport, without a model.");
  int threads = 1;
  int step_us = 1000;
  LoadPlan plan;
  plan.seconds = 3;
  plan.bodies = {"{\"inputs\":\"Hello\",\"parameters\":{\"max_new_tokens\":20}}"};
  app.add_option("--threads", threads, "of the server")->capture_default_str();
  app.add_option("-c,--concurrency", plan.connections)->capture_default_str();
  app.add_option("-s,--seconds", plan.seconds)->capture_default_str();
  app.add_option("--step-us", step_us, "pause between events of a stream")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    plan.path = "/trivial";
    Measured trivial = measure(threads, step_us, plan);
    print("requests", static_cast<double>(trivial.load.requests), trivial, trivial.load.latencies);
    plan.path = "/stream";
    Measured streams = measure(threads, step_us, plan);
    print("events", static_cast<double>(streams.load.events), streams, streams.load.event_gaps);
  } catch (const std::exception& error) {
    fmt::print(stderr, "http_bench: {}\n", error.what());
    return 1;
  }
}

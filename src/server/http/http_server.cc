#include "server/http/http_server.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/error.h"
#include "base/out_of_memory.h"
#include "base/threads.h"
#include "server/http/completion.h"
#include "server/http/http_connection.h"
#include "server/http/http_loop.h"
#include "server/http/url.h"

namespace lorax {

namespace asio = boost::asio;
using boost::system::error_code;
using tcp = asio::ip::tcp;

namespace {

// Files that connections leave to the rest of the process: model, adapters, logs. Where there are
// few files at all, they leave three quarters.
constexpr size_t kReservedFiles = 256;
// Connections beyond the limit that are told so; those beyond these are only closed.
constexpr size_t kMaxRefusals = 64;
constexpr std::chrono::milliseconds kAcceptPause{50};
// Between two attempts where there is no memory.
constexpr std::chrono::milliseconds kMendPause{20};

// As many connections as wanted, or as the limit of open files allows.
size_t allowed_connections(size_t wanted) {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return wanted;
  const rlim_t needed = wanted + kMaxRefusals + kReservedFiles;
  if (files.rlim_cur < needed) {
    files.rlim_cur = std::min<rlim_t>(needed, files.rlim_max);
    ::setrlimit(RLIMIT_NOFILE, &files);
    ::getrlimit(RLIMIT_NOFILE, &files);
  }
  if (files.rlim_cur >= needed) return wanted;
  const rlim_t spare = kMaxRefusals + kReservedFiles;
  const rlim_t beside = files.rlim_cur > spare ? files.rlim_cur - spare : 0;
  return std::max<size_t>({beside, files.rlim_cur / 4, 1});
}

void check_options(const HttpServerOptions& options) {
  if (options.threads < 1) fail("the HTTP server needs at least one thread");
  if (options.max_connections < 1) fail("the HTTP server needs at least one connection");
  if (options.limits.header_bytes < 1024) fail("the limit of HTTP headers is below 1024 bytes");
}

tcp::acceptor listen(asio::io_context& io, const std::string& hostname, uint16_t port) {
  error_code error;
  tcp::resolver resolver(io);
  const auto found =
      resolver.resolve(hostname, std::to_string(port), tcp::resolver::passive, error);
  if (error) fail("cannot find the host {} to listen on: {}", hostname, error.message());
  std::vector<tcp::endpoint> endpoints;
  for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  // "localhost" is both; clients that try one address try 127.0.0.1.
  std::stable_partition(endpoints.begin(), endpoints.end(),
                        [](const tcp::endpoint& endpoint) { return endpoint.address().is_v4(); });
  for (const tcp::endpoint& endpoint : endpoints) {
    tcp::acceptor acceptor(io);
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
    if (!error && endpoint.address().is_v6()) {
      acceptor.set_option(asio::ip::v6_only(false), error);  // "::" takes both kinds
    }
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (!error) return acceptor;
  }
  fail("cannot listen on {}: {}; choose another port or host", authority_of(hostname, port),
       error.message());
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpServerOptions options, HttpHandler handler)
      : options_(std::move(options)),
        handler_(std::move(handler)),
        loops_(make_loops()),
        acceptor_(listen(loops_.front()->io(), options_.hostname, options_.port)),
        accept_pause_(acceptor_.get_executor()),
        port_(acceptor_.local_endpoint().port()) {
    options_.max_connections = allowed_connections(options_.max_connections);
    asio::post(acceptor_.get_executor(), [this] { accept(); });
    start_threads();
  }

  ~Impl() { stop(std::chrono::milliseconds(0)); }

  uint16_t port() const { return port_; }

  size_t connections() const {
    const std::lock_guard lock(mutex_);
    return connections_.size() - refusals_;
  }

  void stop_accepting() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(stopping_, true)) return;
    for (const auto& [_, entry] : connections_) entry.connection->drain();
    try {
      asio::post(acceptor_.get_executor(), [this] {
        error_code ignored;
        acceptor_.close(ignored);
        accept_pause_.cancel();
      });
    } catch (...) {  // out of memory: whoever comes is let go at once
    }
  }

  void stop(std::chrono::milliseconds timeout) {
    const std::lock_guard one_at_a_time(stop_mutex_);
    if (threads_.empty()) return;
    stop_accepting();
    std::unique_lock lock(mutex_);
    const auto none_left = [this] { return connections_.empty(); };
    if (!none_left_.wait_for(lock, timeout, none_left)) {
      for (const auto& [_, entry] : connections_) entry.connection->abort();
      none_left_.wait(lock, none_left);
    }
    lock.unlock();
    end_threads();
  }

 private:
  struct Entry {
    std::shared_ptr<HttpConnection> connection;
    std::string address;
    bool refused = false;  // it is only told that there are too many
    bool evicted = false;  // it has been asked to make room
  };

  // Signals go to the threads of the program that wait for them.
  void start_threads() {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    threads_.reserve(static_cast<size_t>(options_.threads) + 1);
    try {
      for (int i = 0; i < options_.threads; ++i) {
        threads_.push_back(start_thread("the HTTP server",
                                        [this, i] { run(loops_[static_cast<size_t>(i)]->io()); }));
      }
      threads_.push_back(start_thread("the HTTP server", [this] { run_mender(); }));
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      end_threads();
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  std::vector<std::unique_ptr<HttpLoop>> make_loops() {
    std::vector<std::unique_ptr<HttpLoop>> loops;
    for (int i = 0; i < options_.threads; ++i) {
      loops.push_back(std::make_unique<HttpLoop>([this] { stumble(); }));
    }
    return loops;
  }

  void end_threads() {
    for (const auto& loop : loops_) loop->io().stop();
    {
      const std::lock_guard lock(mend_mutex_);
      mender_ends_ = true;
      mend_wake_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void run(asio::io_context& io) noexcept {
    while (!io.stopped()) {
      try {
        io.run();
      } catch (...) {  // Asio had no memory; what it has lost thereby tells (Completion)
        release_memory_reserve();
        report(message_of(std::current_exception()));
      }
    }
  }

  void report(std::string_view what) noexcept {
    try {
      if (options_.error_log) options_.error_log(fmt::format("HTTP transport: {}", what));
    } catch (...) {  // out of memory: a line costs nobody anything
    }
  }

  // --- What was lost for want of memory ---------------------------------------------------------

  void stumble() noexcept {
    const std::lock_guard lock(mend_mutex_);
    stumbled_ = true;
    mend_wake_.notify_all();
  }

  // A thread of its own, since it waits for memory: nothing else may have to.
  void run_mender() noexcept {
    std::unique_lock lock(mend_mutex_);
    while (true) {
      mend_wake_.wait(lock, [this] { return stumbled_ || mender_ends_; });
      if (mender_ends_) return;
      stumbled_ = false;
      lock.unlock();
      const bool mended = mend();
      lock.lock();
      if (mended) continue;
      stumbled_ = true;
      mend_wake_.wait_for(lock, kMendPause, [this] { return mender_ends_; });
    }
  }

  bool mend() noexcept {
    bool mended = true;
    for (const auto& loop : loops_) mended &= loop->mend();
    if (!accept_is_lost_.exchange(false)) return mended;
    try {
      asio::post(acceptor_.get_executor(), [this] { accept_again(); });
    } catch (...) {
      release_memory_reserve();
      accept_is_lost_ = true;
      return false;
    }
    return mended;
  }

  template <typename Function>
  auto completion(Function function) {
    return Completion(this, [function](Impl&, auto&&... arguments) {
      function(std::forward<decltype(arguments)>(arguments)...);
    });
  }

  template <typename Owner, typename Function>
  friend class lorax::Completion;
  void handler_lost() noexcept {
    accept_is_lost_ = true;
    stumble();
  }

  // Waits for a client first: where no file is left, accepting fails even while nobody waits.
  void accept() {
    acceptor_.async_wait(tcp::acceptor::wait_read,
                         completion([this](error_code error) { on_waiting_client(error); }));
  }

  void accept_again() {
    if (acceptor_.is_open()) accept_or_mend([this] { accept(); });
  }

  // What throws here would end the accepting.
  template <typename Function>
  void accept_or_mend(const Function& function) noexcept {
    try {
      function();
    } catch (...) {
      report(message_of(std::current_exception()));
      handler_lost();
    }
  }

  void on_waiting_client(error_code error) {
    if (!acceptor_.is_open()) return;
    accept_or_mend([&] {
      if (error) return pause_accepting(error);
      next_loop_ = (next_loop_ + 1) % loops_.size();
      acceptor_.async_accept(loops_[next_loop_]->io(),
                             completion([this](error_code failed, tcp::socket socket) {
                               on_accepted(failed, std::move(socket));
                             }));
    });
  }

  void on_accepted(error_code failed, tcp::socket socket) {
    if (!acceptor_.is_open()) return;
    accept_or_mend([&] {
      if (failed && failed != asio::error::connection_aborted) return pause_accepting(failed);
      if (!failed) admit(std::move(socket));
      accept();
    });
  }

  // Most likely no file descriptor is left. Who waits stays in the queue of the kernel, until an
  // idle connection has given its file or another has ended.
  void pause_accepting(error_code error) {
    report(fmt::format("cannot accept connections: {}", error.message()));
    {
      const std::lock_guard lock(mutex_);
      evict_idle();
    }
    accept_pause_.expires_after(kAcceptPause);
    accept_pause_.async_wait(completion([this](error_code) { accept_again(); }));
  }

  void admit(tcp::socket socket) {
    std::shared_ptr<HttpConnection> connection;
    const std::string address = address_of(socket);
    bool refused = false;
    {
      const std::lock_guard lock(mutex_);
      refused = has_too_many(address);
      if (!refused && connections_.size() - refusals_ >= options_.max_connections) {
        refused = !evict_idle();
      }
      if (stopping_ || (refused && refusals_ >= kMaxRefusals)) return;
      connection = std::make_shared<HttpConnection>(std::move(socket), options_, handler_,
                                                    on_closed_, *loops_[next_loop_]);
      enter(connection, address, refused);
    }
    refused ? connection->refuse() : connection->start();
  }

  // With the lock held, as what follows. All books or none.
  void enter(const std::shared_ptr<HttpConnection>& connection, const std::string& address,
             bool refused) {
    const auto of_address = refused ? by_address_.end() : by_address_.try_emplace(address).first;
    try {
      connections_.emplace(connection.get(),
                           Entry{connection, address, refused, /*evicted=*/false});
    } catch (...) {
      if (!refused && of_address->second == 0) by_address_.erase(of_address);
      throw;
    }
    refused ? ++refusals_ : ++of_address->second;
  }

  bool has_too_many(const std::string& address) const {
    const auto found = by_address_.find(address);
    return options_.max_connections_per_address > 0 && found != by_address_.end() &&
           found->second >= options_.max_connections_per_address;
  }

  // Makes room by closing the connection that has been idle for longest; false if none is.
  bool evict_idle() {
    Entry* oldest = nullptr;
    int64_t since = std::numeric_limits<int64_t>::max();
    for (auto& [connection, entry] : connections_) {
      const int64_t idle_since = connection->idle_since();
      if (idle_since == 0 || idle_since >= since || entry.evicted) continue;
      oldest = &entry;
      since = idle_since;
    }
    if (oldest == nullptr) return false;
    oldest->evicted = true;
    oldest->connection->close_if_idle();
    return true;
  }

  void forget(HttpConnection& connection) {
    const std::lock_guard lock(mutex_);
    const auto found = connections_.find(&connection);
    if (found->second.refused) {
      --refusals_;
    } else if (const auto of_address = by_address_.find(found->second.address);
               --of_address->second == 0) {
      by_address_.erase(of_address);
    }
    connections_.erase(found);
    if (connections_.empty()) none_left_.notify_all();
  }

  HttpServerOptions options_;
  const HttpHandler handler_;
  const std::function<void(HttpConnection&)> on_closed_ = [this](HttpConnection& connection) {
    forget(connection);
  };

  std::mutex mend_mutex_;
  std::condition_variable mend_wake_;
  bool stumbled_ = false;  // guarded by mend_mutex_, as the next
  bool mender_ends_ = false;
  std::atomic<bool> accept_is_lost_{false};

  mutable std::mutex mutex_;
  std::condition_variable none_left_;
  bool stopping_ = false;  // guarded by mutex_
  // Owns the open connections; guarded by mutex_.
  std::unordered_map<HttpConnection*, Entry> connections_;
  size_t refusals_ = 0;                                 // among them
  std::unordered_map<std::string, size_t> by_address_;  // the others

  std::vector<std::unique_ptr<HttpLoop>> loops_;  // of the threads
  size_t next_loop_ = 0;  // of the acceptor's thread alone: who gets the next connection
  tcp::acceptor acceptor_;
  asio::steady_timer accept_pause_;
  const uint16_t port_;

  std::mutex stop_mutex_;
  std::vector<std::thread> threads_;
};

HttpServer::HttpServer(HttpServerOptions options, HttpHandler handler) {
  check_options(options);
  impl_ = std::make_unique<Impl>(std::move(options), std::move(handler));
}

HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const { return impl_->port(); }
size_t HttpServer::connections() const { return impl_->connections(); }
void HttpServer::stop_accepting() { impl_->stop_accepting(); }
void HttpServer::stop(std::chrono::milliseconds timeout) { impl_->stop(timeout); }

}  // namespace lorax

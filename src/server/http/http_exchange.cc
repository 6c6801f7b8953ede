#include "server/http/http_exchange.h"

#include <algorithm>

#include <boost/algorithm/string/predicate.hpp>

#include "base/check.h"
#include "base/out_of_memory.h"
#include "server/http/http_error.h"
#include "server/http/http_wire.h"

namespace lorax {
namespace {

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::string_view kComment = ":\n\n";
// What a chunk takes beside its bytes, at most.
constexpr size_t kChunkFrame = 32;

class ExchangeWriter final : public ResponseWriter {
 public:
  explicit ExchangeWriter(std::shared_ptr<HttpExchange> exchange)
      : exchange_(std::move(exchange)) {}
  ~ExchangeWriter() override { exchange_->abandon(); }
  void respond(HttpResponse response) override { exchange_->respond(std::move(response)); }
  void begin(int status, std::vector<std::pair<std::string, std::string>> headers,
             std::string content_type) override {
    exchange_->begin(status, std::move(headers), std::move(content_type));
  }
  void write(std::string bytes) override { exchange_->write(std::move(bytes)); }
  void finish() override { exchange_->finish(); }
  void on_disconnect(std::function<void()> callback) override {
    exchange_->on_disconnect(std::move(callback));
  }
  void note(const std::function<void(RequestNote&)>& change) override { exchange_->note(change); }

 private:
  const std::shared_ptr<HttpExchange> exchange_;
};

}  // namespace

std::shared_ptr<ResponseWriter> make_writer(std::shared_ptr<HttpExchange> exchange) {
  return std::make_shared<ExchangeWriter>(std::move(exchange));
}

HttpExchange::HttpExchange(ResponseTerms terms, std::function<void()> wake)
    : terms_(std::move(terms)), wake_(std::move(wake)) {}

// --- Handlers' side --------------------------------------------------------------------------

void HttpExchange::respond(HttpResponse response) {
  std::function<void()> unused;  // destroyed after the lock is gone
  const std::lock_guard lock(mutex_);
  if (stage_ != Stage::kWaiting) return;
  if (!dropping_) {
    std::string& body = response.body;
    const std::string head =
        make_head(response.status, response.headers, response.content_type, body.size());
    if (bodyless_) body.clear();
    make_room(head.size() + body.size());
    queue_ += head;
    queue_ += body;
  }
  unused.swap(on_disconnect_);
  stage_ = Stage::kEnded;
  if (!dropping_) wake();
}

void HttpExchange::begin(int status, std::vector<std::pair<std::string, std::string>> headers,
                         std::string content_type) {
  const std::lock_guard lock(mutex_);
  if (stage_ != Stage::kWaiting) return;
  if (!dropping_) {
    chunked_ = terms_.http11;
    // Without chunks, the end of the connection is the end of the body.
    if (!chunked_) terms_.keep_alive = false;
    event_stream_ = boost::istarts_with(content_type, "text/event-stream");
    const std::string head = make_head(status, headers, content_type, std::nullopt);
    make_room(head.size());
    queue_ += head;
  }
  stage_ = Stage::kBegun;
  if (!dropping_) wake();
}

void HttpExchange::write(std::string bytes) {
  const std::lock_guard lock(mutex_);
  if (stage_ != Stage::kBegun || dropping_ || bodyless_ || bytes.empty()) return;
  if (queue_.size() + bytes.size() > terms_.max_queued_bytes) {
    dropping_ = true;
    cut_ = true;
    queue_ = {};
    // Also while a write is under way, which may not end for long.
    if (wake_) wake_();
  } else {
    append_body(bytes);
    wake();
  }
}

void HttpExchange::finish() {
  std::function<void()> unused;
  const std::lock_guard lock(mutex_);
  if (stage_ != Stage::kBegun) return;
  if (!dropping_ && chunked_ && !bodyless_) {
    make_room(kLastChunk.size());
    queue_ += kLastChunk;
  }
  unused.swap(on_disconnect_);
  stage_ = Stage::kEnded;
  if (!dropping_) wake();
}

void HttpExchange::on_disconnect(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (stage_ == Stage::kEnded) return;
    if (!disconnected_) {
      on_disconnect_.swap(callback);
      return;
    }
  }
  if (callback) callback();
}

void HttpExchange::note(const std::function<void(RequestNote&)>& change) {
  const std::lock_guard lock(mutex_);
  change(note_);
}

void HttpExchange::abandon() noexcept {
  std::function<void()> unused;
  const auto cut = [this] {
    if (stage_ == Stage::kEnded) return;
    if (stage_ == Stage::kWaiting) status_ = 503;  // for the log: nothing can be said
    stage_ = Stage::kEnded;
    cut_ = true;
    wake();
  };
  {
    const std::lock_guard lock(mutex_);
    unused.swap(on_disconnect_);
    if (stage_ == Stage::kBegun) cut();
    if (stage_ == Stage::kEnded || dropping_) return;
  }
  try {
    respond(has_memory_reserve()
                ? error_response(terms_.path, 500, "the server dropped this request")
                : out_of_memory_response(terms_.path));
  } catch (...) {  // out of memory
    const std::lock_guard lock(mutex_);
    cut();
  }
}

// --- Connection's side -----------------------------------------------------------------------

HttpExchange::Progress HttpExchange::take(std::string& bytes) {
  bytes.clear();
  const std::lock_guard lock(mutex_);
  bytes.swap(queue_);
  if (bytes.empty() && cut_) return Progress::kCut;
  if (stage_ == Stage::kEnded && !cut_) return Progress::kComplete;
  awake_ = !bytes.empty();
  return Progress::kOpen;
}

bool HttpExchange::has_overrun() const {
  const std::lock_guard lock(mutex_);
  return dropping_ && cut_;
}

bool HttpExchange::queue_sign_of_life() {
  const std::lock_guard lock(mutex_);
  if (stage_ == Stage::kEnded || dropping_) return false;
  if (stage_ == Stage::kWaiting) {
    if (!terms_.http11) return false;
    make_room(kContinue.size());
    queue_ += kContinue;
  } else {
    if (!event_stream_ || bodyless_) return false;
    append_body(kComment);
  }
  wake();
  return true;
}

void HttpExchange::detach() {
  const std::lock_guard lock(mutex_);
  dropping_ = true;
  wake_ = nullptr;
}

void HttpExchange::disconnect() {
  std::function<void()> callback;
  {
    const std::lock_guard lock(mutex_);
    dropping_ = true;
    disconnected_ = true;
    wake_ = nullptr;
    queue_ = {};
    callback.swap(on_disconnect_);
  }
  if (callback) callback();
}

void HttpExchange::close_after() {
  const std::lock_guard lock(mutex_);
  terms_.keep_alive = false;
}

bool HttpExchange::keeps_alive() const {
  const std::lock_guard lock(mutex_);
  return terms_.keep_alive;
}

bool HttpExchange::has_ended() const {
  const std::lock_guard lock(mutex_);
  return stage_ == Stage::kEnded;
}

bool HttpExchange::is_event_stream() const {
  const std::lock_guard lock(mutex_);
  return event_stream_;
}

RequestNote HttpExchange::take_note() {
  const std::lock_guard lock(mutex_);
  return std::exchange(note_, {});
}

int HttpExchange::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

// --- With the lock held ----------------------------------------------------------------------

void HttpExchange::wake() {
  if (awake_ || !wake_) return;
  awake_ = true;
  wake_();
}

void HttpExchange::make_room(size_t bytes) {
  const size_t need = queue_.size() + bytes;
  if (need > queue_.capacity()) queue_.reserve(std::max(need, 2 * queue_.capacity()));
}

void HttpExchange::append_body(std::string_view bytes) {
  make_room(bytes.size() + kChunkFrame);
  if (chunked_) {
    append_chunk(queue_, bytes);
  } else {
    queue_ += bytes;
  }
}

std::string HttpExchange::make_head(int status,
                                    const std::vector<std::pair<std::string, std::string>>& headers,
                                    std::string_view content_type,
                                    std::optional<uint64_t> body_length) {
  LORAX_CHECK(status >= 200 && status <= 599, "status {}", status);
  status_ = status;
  bodyless_ = terms_.head || has_no_body(status);
  ResponseHead head;
  head.status = status;
  head.headers = &headers;
  head.request_id = terms_.request_id;
  head.close = !terms_.keep_alive;
  head.keep_alive_10 = !terms_.http11;
  if (!has_no_body(status)) {
    head.content_type = content_type;
    head.body_length = body_length;
    head.chunked = chunked_;
  }
  std::string bytes;
  append_response_head(bytes, head);
  return bytes;
}

}  // namespace lorax

// For tests of handlers: a ResponseWriter that keeps what it is given.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "server/http/http.h"

namespace lorax {

class RecordingWriter final : public ResponseWriter {
 public:
  void respond(HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    LORAX_CHECK(!begun_ && !ended_, "a second response");
    response_ = std::move(response);
    ended_ = true;
    callback_ = nullptr;
  }
  void begin(int status, std::vector<std::pair<std::string, std::string>> headers,
             std::string content_type) override {
    const std::lock_guard lock(mutex_);
    LORAX_CHECK(!begun_ && !ended_, "a second response");
    begun_ = true;
    response_.status = status;
    response_.headers = std::move(headers);
    response_.content_type = std::move(content_type);
  }
  void write(std::string bytes) override {
    const std::lock_guard lock(mutex_);
    LORAX_CHECK(begun_ && !ended_, "written outside of a response");
    if (!gone_) response_.body += bytes;
  }
  void finish() override {
    const std::lock_guard lock(mutex_);
    LORAX_CHECK(begun_ && !ended_, "finished twice");
    ended_ = true;
    callback_ = nullptr;
  }
  void on_disconnect(std::function<void()> callback) override {
    {
      const std::lock_guard lock(mutex_);
      if (ended_) return;
      if (!gone_) {
        callback_ = std::move(callback);
        return;
      }
    }
    callback();
  }

  void note(const std::function<void(RequestNote&)>& change) override {
    const std::lock_guard lock(mutex_);
    change(note_);
  }

  // The client goes.
  void disconnect() {
    std::function<void()> callback;
    {
      const std::lock_guard lock(mutex_);
      gone_ = true;
      callback.swap(callback_);
    }
    if (callback) callback();
  }

  bool ended() const {
    const std::lock_guard lock(mutex_);
    return ended_;
  }
  RequestNote noted() const {
    const std::lock_guard lock(mutex_);
    return note_;
  }
  HttpResponse response() const {
    const std::lock_guard lock(mutex_);
    return response_;
  }

 private:
  mutable std::mutex mutex_;
  HttpResponse response_;
  RequestNote note_;
  bool begun_ = false;
  bool ended_ = false;
  bool gone_ = false;
  std::function<void()> callback_;
};

}  // namespace lorax

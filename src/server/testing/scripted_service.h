// For tests of front ends: a GenerationService that does as it is told, without a model.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/schedule/generation_service.h"

namespace lorax {

// What becomes of one request.
struct Script {
  GenerationService::Admission admission = GenerationService::Admission::kAccepted;
  std::chrono::seconds retry_after{1};
  std::vector<TokenInfo> prompt;  // on_prompt, if the request asks for it
  std::vector<GeneratedToken> tokens;
  GenerationEnd end;  // counts of tokens are filled in
  // The engine sleeps this long before each token, in start().
  std::chrono::microseconds pace{0};
};

// A token whose text goes out with it.
inline GeneratedToken scripted_token(int32_t id, const std::string& text, float logprob = -0.5f) {
  GeneratedToken token;
  token.token.id = id;
  token.token.text = text;
  token.token.logprob = logprob;
  token.delta = text;
  return token;
}

// One token that is no text and ends it.
inline GeneratedToken scripted_eos(int32_t id = 1) {
  GeneratedToken token = scripted_token(id, "<eos>", -0.25f);
  token.token.special = true;
  token.delta.clear();
  return token;
}

// Texts as tokens 100, 101, ...
inline Script scripted_text(const std::vector<std::string>& texts,
                            FinishReason reason = FinishReason::kLength) {
  Script script;
  for (size_t i = 0; i < texts.size(); ++i) {
    script.tokens.push_back(scripted_token(100 + static_cast<int32_t>(i), texts[i]));
  }
  script.end.reason = reason;
  return script;
}

inline Script scripted_failure(FailureKind failure, const std::string& error) {
  Script script;
  script.end.reason = FinishReason::kFailed;
  script.end.failure = failure;
  script.end.error = error;
  return script;
}

// Requests run in step() and run(), on the thread that calls them, or after start() on a thread of
// the service; one event of each running request per step.
class ScriptedService final : public GenerationService {
 public:
  using Writer = std::function<Script(const GenerationRequest& request, size_t number)>;

  ScriptedService() {
    limits_.max_input_tokens = 60;
    limits_.max_total_tokens = 64;
    limits_.max_concurrent_requests = 32;
    limits_.max_of_one_flow = 32;
  }
  ~ScriptedService() override { stop(); }

  // Who writes the scripts of requests from now on; they are numbered from 0.
  void set_writer(Writer writer) {
    const std::lock_guard lock(mutex_);
    writer_ = std::move(writer);
  }
  void set_script(Script script) {
    set_writer([script = std::move(script)](const GenerationRequest&, size_t) { return script; });
  }
  void set_healthy(bool healthy) { healthy_ = healthy; }
  void set_limits(ServiceLimits limits) { limits_ = limits; }

  Submitted submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) override {
    const std::lock_guard lock(mutex_);
    Script script = writer_(request, requests_.size());
    requests_.push_back(request);
    if (script.admission != Admission::kAccepted) return {script.admission, 0, script.retry_after};
    if (static_cast<int64_t>(running_.size()) >= limits_.max_concurrent_requests) {
      return {.admission = Admission::kOverloaded};
    }
    const RequestId id = ++last_id_;
    running_[id] = {std::move(script), std::move(sink), request.prompt_logprobs,
                    static_cast<int64_t>(request.prompt.size())};
    return {Admission::kAccepted, id};
  }

  void cancel(RequestId id) override {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
    if (const auto found = running_.find(id); found != running_.end()) {
      found->second.cancelled = true;
    }
  }

  const ServiceLimits& limits() const override { return limits_; }
  ServiceStats stats() const override { return {}; }
  bool healthy() const override { return healthy_; }

  // Gives each running request its next event. Whether any is left.
  bool step() {
    std::vector<RequestId> ids;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [id, unused] : running_) ids.push_back(id);
    }
    for (const RequestId id : ids) advance(id);
    const std::lock_guard lock(mutex_);
    return !running_.empty();
  }
  void run() {
    while (step()) {
    }
  }

  // Runs requests on a thread of its own, until stop(), which ends those that are left as
  // cancelled.
  void start() {
    stopping_ = false;
    thread_ = std::thread([this] {
      while (!stopping_) {
        if (!step()) std::this_thread::yield();
      }
    });
  }
  void stop() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
    {
      const std::lock_guard lock(mutex_);
      for (auto& [id, unused] : running_) running_[id].cancelled = true;
    }
    run();
  }

  // What has come in, in order.
  std::vector<GenerationRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  void forget_requests() {
    const std::lock_guard lock(mutex_);
    requests_.clear();
  }
  std::vector<RequestId> cancelled() const {
    const std::lock_guard lock(mutex_);
    return cancelled_;
  }
  size_t running() const {
    const std::lock_guard lock(mutex_);
    return running_.size();
  }

 private:
  struct Running {
    Script script;
    std::shared_ptr<GenerationSink> sink;
    bool wants_prompt = false;
    int64_t prompt_tokens = 0;
    size_t next_token = 0;
    bool cancelled = false;
  };

  void advance(RequestId id) {
    Running* request = nullptr;
    bool ends = false;
    {
      const std::lock_guard lock(mutex_);
      request = &running_.at(id);
      if (request->cancelled) {
        request->script.end = {};
        request->script.end.reason = FinishReason::kCancelled;
      }
      ends = request->cancelled || request->next_token == request->script.tokens.size();
    }
    if (ends) return end(id, *request);
    if (request->script.pace.count() > 0) std::this_thread::sleep_for(request->script.pace);
    if (request->next_token == 0 && request->wants_prompt) {
      request->sink->on_prompt(request->script.prompt);
    }
    request->sink->on_token(request->script.tokens[request->next_token++]);
  }

  void end(RequestId id, Running& request) {
    GenerationEnd end = request.script.end;
    end.prompt_tokens = request.prompt_tokens;
    end.generated_tokens = static_cast<int64_t>(request.next_token);
    request.sink->on_end(std::move(end));
    const std::lock_guard lock(mutex_);
    running_.erase(id);
  }

  ServiceLimits limits_;
  std::atomic<bool> healthy_ = true;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
  mutable std::mutex mutex_;  // guards all below
  Writer writer_ = [](const GenerationRequest&, size_t) { return scripted_text({" a", " b"}); };
  std::map<RequestId, Running> running_;
  std::vector<GenerationRequest> requests_;
  std::vector<RequestId> cancelled_;
  RequestId last_id_ = 0;
};

}  // namespace lorax

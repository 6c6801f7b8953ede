// What tests of the engine share: a client that collects what comes, and waits for it.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/eventually.h"
#include "engine/schedule/generation_service.h"

namespace lorax {

// All that a request gave.
struct Collected {
  std::vector<TokenInfo> prompt;
  std::vector<GeneratedToken> tokens;
  std::string text;  // all deltas
  GenerationEnd end;

  std::vector<int32_t> ids() const {
    std::vector<int32_t> ids;
    for (const GeneratedToken& token : tokens) ids.push_back(token.token.id);
    return ids;
  }
  std::vector<float> logprobs() const {
    std::vector<float> logprobs;
    for (const GeneratedToken& token : tokens) logprobs.push_back(token.token.logprob);
    return logprobs;
  }
};

// Checks the order of calls.
class CollectingSink final : public GenerationSink {
 public:
  void on_prompt(std::vector<TokenInfo> tokens) override {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(got_.tokens.empty() && got_.prompt.empty() && ends_ == 0);
    got_.prompt = std::move(tokens);
  }
  void on_token(GeneratedToken token) override {
    const std::lock_guard lock(mutex_);
    EXPECT_EQ(ends_, 0);
    got_.text += token.delta;
    got_.tokens.push_back(std::move(token));
    changed_.notify_all();
  }
  void on_end(GenerationEnd end) override {
    const std::lock_guard lock(mutex_);
    EXPECT_EQ(++ends_, 1);
    got_.text += end.delta;
    got_.end = std::move(end);
    changed_.notify_all();
  }

  // Until the request has ended.
  const Collected& wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kTestPatience, [&] { return ends_ > 0; }));
    return got_;
  }
  // Until it has given so many tokens, or ended.
  void wait_for_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kTestPatience,
                                  [&] { return ends_ > 0 || got_.tokens.size() >= count; }));
  }
  bool ended() const {
    const std::lock_guard lock(mutex_);
    return ends_ > 0;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Collected got_;
  int ends_ = 0;
};

}  // namespace lorax

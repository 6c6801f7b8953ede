#include "engine/run/engine_request.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"

namespace lorax {
namespace {

void check_usable(const SampledToken& token, bool bans) {
  if (token.id < 0) {
    if (bans) {
      fail("no token is left to choose: what may be chosen is all banned; ask for less");
    }
    fail("the model gave a logit that is not a number; the weights hold infinities or NaN");
  }
}

}  // namespace

EngineRequest::EngineRequest(GenerationRequest request, std::shared_ptr<GenerationSink> sink,
                             Time submitted)
    : request_(std::move(request)),
      prompt_tokens_(static_cast<int64_t>(request_.prompt.size())),
      places_flow_(places_flow_of(request_)),
      sink_(std::move(sink)),
      submitted_(submitted) {}

void EngineRequest::begin(const Tokenizer* tokenizer) {
  tokenizer_ = tokenizer;
  sampler_.emplace(request_.sampling, request_.prompt);
  if (tokenizer != nullptr) text_.emplace(*tokenizer, request_.stop);
  if (request_.prompt_logprobs) {
    prompt_.push_back(info_of({request_.prompt.front(), std::numeric_limits<float>::quiet_NaN()}));
  }
}

bool EngineRequest::note_step(Time now) {
  if (started_) return false;
  started_ = now;
  return true;
}

int64_t EngineRequest::take_prompt_rows(int64_t begin, int64_t end) {
  const int64_t last = std::min(end, prompt_tokens_ - 1);
  const int64_t next = taken_prompt_rows_;
  if (!request_.prompt_logprobs || next < begin || next >= last) return end;
  taken_prompt_rows_ = last;
  return next;
}

void EngineRequest::report_prompt(std::span<const SampledToken> tokens) {
  for (const SampledToken& token : tokens) {
    check_usable(token, /*bans=*/false);
    prompt_.push_back(info_of(token));
  }
}

std::optional<FinishReason> EngineRequest::report_token(const SampledToken& token, Time now) {
  check_usable(token, sampler_->bans());
  sampler_->accept(token.id);
  if (!first_token_) {
    first_token_ = now;
    if (request_.prompt_logprobs) sink_->on_prompt(std::exchange(prompt_, {}));
  }
  ++generated_;
  GeneratedToken out;
  out.token = info_of(token);
  const bool ends =
      std::ranges::find(request_.stop_token_ids, token.id) != request_.stop_token_ids.end();
  if (text_ && !ends) {
    out.delta = text_->push(token.id, /*may_stop=*/generated_ > request_.sampling.min_tokens);
  }
  sink_->on_token(std::move(out));
  if (ends) return FinishReason::kStopSequence;
  if (std::ranges::find(request_.eos_token_ids, token.id) != request_.eos_token_ids.end()) {
    return FinishReason::kEosToken;
  }
  if (text_ && text_->stopped()) return FinishReason::kStopSequence;
  if (generated_ >= request_.max_new_tokens) return FinishReason::kLength;
  return std::nullopt;
}

void EngineRequest::finish_text(GenerationEnd& end) noexcept {
  if (!text_) return;
  try {
    end.delta = text_->finish();
    if (text_->stopped()) end.stop_sequence = text_->stop_sequence();
  } catch (const std::exception&) {  // std::bad_alloc
    end.reason = FinishReason::kFailed;
    end.failure = FailureKind::kMemory;
    end.error.clear();
  }
}

void EngineRequest::report_end(GenerationEnd end, Time now) noexcept {
  finish_text(end);
  end.prompt_tokens = prompt_tokens_;
  end.generated_tokens = generated_;
  end.queue_time = started_.value_or(now) - submitted_;
  if (started_) end.prefill_time = first_token_.value_or(now) - *started_;
  if (first_token_) end.decode_time = now - *first_token_;
  sink_->on_end(std::move(end));
}

TokenInfo EngineRequest::info_of(const SampledToken& token) const {
  TokenInfo info;
  info.id = token.id;
  info.text = text_of(token.id);
  info.logprob = token.logprob;
  info.special = tokenizer_ != nullptr && tokenizer_->is_special(token.id);
  for (const TokenLogprob& other : token.alternatives) {
    info.alternatives.push_back({other.id, text_of(other.id), other.logprob});
  }
  return info;
}

std::string EngineRequest::text_of(int32_t id) const {
  return tokenizer_ != nullptr ? spell_token(*tokenizer_, id) : "";
}

}  // namespace lorax

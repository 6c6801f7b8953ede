#include "engine/engine_request.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/token_scores.h"

namespace lorax {

EngineRequest::EngineRequest(GenerationRequest request, std::shared_ptr<GenerationSink> sink,
                             const Tokenizer* tokenizer, Time submitted)
    : request_(std::move(request)),
      prompt_tokens_(static_cast<int64_t>(request_.prompt.size())),
      sink_(std::move(sink)),
      tokenizer_(tokenizer),
      submitted_(submitted) {
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

int64_t EngineRequest::first_prompt_row(int64_t begin, int64_t end) const {
  if (!request_.prompt_logprobs || prompt_.empty()) return end;
  const int64_t next = static_cast<int64_t>(prompt_.size()) - 1;
  const bool wanted = begin <= next && next < std::min(end, prompt_tokens_ - 1);
  return wanted ? next : end;
}

void EngineRequest::report_prompt_row(int64_t position, std::span<const float> logits) {
  const double log_sum = log_sum_exp(logits);
  const int32_t id = request_.prompt[static_cast<size_t>(position + 1)];
  TokenInfo& info = prompt_.emplace_back(info_of({id, logprob_of(logits, log_sum, id)}));
  info.alternatives = alternatives_of(logits, log_sum, request_.prompt_alternatives);
}

std::optional<FinishReason> EngineRequest::report_token(const SampledToken& token,
                                                        std::span<const float> logits, Time now) {
  if (!first_token_) {
    first_token_ = now;
    if (request_.prompt_logprobs) sink_->on_prompt(std::exchange(prompt_, {}));
  }
  ++generated_;
  GeneratedToken out;
  out.token = info_of(token);
  if (request_.alternatives > 0) {
    out.token.alternatives = alternatives_of(logits, log_sum_exp(logits), request_.alternatives);
  }
  if (text_) out.delta = text_->push(token.id);
  sink_->on_token(std::move(out));
  if (std::ranges::find(request_.eos_token_ids, token.id) != request_.eos_token_ids.end()) {
    return FinishReason::kEosToken;
  }
  if (text_ && text_->stopped()) return FinishReason::kStopSequence;
  if (generated_ >= request_.max_new_tokens) return FinishReason::kLength;
  return std::nullopt;
}

void EngineRequest::report_end(GenerationEnd end, Time now) {
  if (text_) {
    end.delta = text_->finish();
    if (end.reason == FinishReason::kStopSequence) end.stop_sequence = text_->stop_sequence();
  }
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
  info.logprob = token.logprob;
  if (tokenizer_ != nullptr) {
    info.text = spell_token(*tokenizer_, token.id);
    info.special = tokenizer_->is_special(token.id);
  }
  return info;
}

std::vector<TokenAlternative> EngineRequest::alternatives_of(std::span<const float> logits,
                                                             double log_sum, int32_t count) const {
  std::vector<TokenAlternative> alternatives;
  if (count <= 0) return alternatives;
  for (const SampledToken& token : most_likely(logits, log_sum, count)) {
    alternatives.push_back({.id = token.id,
                            .text = tokenizer_ != nullptr ? spell_token(*tokenizer_, token.id) : "",
                            .logprob = token.logprob});
  }
  return alternatives;
}

}  // namespace lorax

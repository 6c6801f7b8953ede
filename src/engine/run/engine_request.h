// One request in the engine: what its client wants, and what it has been told.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/sample/sampler.h"
#include "engine/sample/sampler_state.h"
#include "engine/sample/text_stream.h"
#include "engine/schedule/generation_service.h"
#include "text/tokenizer.h"

namespace lorax {

class EngineRequest {
 public:
  using Time = std::chrono::steady_clock::time_point;

  EngineRequest(GenerationRequest request, std::shared_ptr<GenerationSink> sink, Time submitted);
  // Before all below, except report_end(). The tokenizer may be null; it must outlive this.
  void begin(const Tokenizer* tokenizer);

  const GenerationRequest& request() const { return request_; }
  // Whose places it takes: places_flow_of(request()).
  const std::string& places_flow() const { return places_flow_; }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t generated() const { return generated_; }
  const SamplerState& sampler() const { return *sampler_; }

  // It takes part in a step that begins. Returns whether that is its first.
  bool note_step(Time now);
  // Of rows [begin, end), each of which predicts the token behind it: the first that the client is
  // still to be told of, as it is a token of the prompt; `end` if there is none. It and those
  // behind it are not asked for again.
  int64_t take_prompt_rows(int64_t begin, int64_t end);
  // The prompt's tokens behind the rows that take_prompt_rows() asked for, with their scores, in
  // the same order. Throws Error if the model gave none.
  void report_prompt(std::span<const SampledToken> tokens);
  // The next token. Tells the client. Returns why the text ends with it, if it does. Throws Error
  // if the model's logits allow none.
  std::optional<FinishReason> report_token(const SampledToken& token, Time now);
  // Tells the client; last. Fills in what `end` lacks: counts and times of this, and the text; if
  // there is no memory for that, the end is a failure.
  void report_end(GenerationEnd end, Time now) noexcept;

  // The step runner's note: where in the output of the last step that samples for it its row stood.
  int32_t output_row = 0;

 private:
  void finish_text(GenerationEnd& end) noexcept;
  TokenInfo info_of(const SampledToken& token) const;
  std::string text_of(int32_t id) const;

  GenerationRequest request_;
  const int64_t prompt_tokens_;
  const std::string places_flow_;
  std::shared_ptr<GenerationSink> sink_;
  const Tokenizer* tokenizer_ = nullptr;
  std::optional<SamplerState> sampler_;
  std::optional<TextStream> text_;
  int64_t generated_ = 0;
  std::vector<TokenInfo> prompt_;  // while it is being computed
  int64_t taken_prompt_rows_ = 0;
  Time submitted_;
  std::optional<Time> started_;
  std::optional<Time> first_token_;
};

}  // namespace lorax

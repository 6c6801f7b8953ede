#include "server/api/prompt_tokens.h"

#include <fmt/format.h>

#include "base/error.h"
#include "server/api/api_error.h"

namespace lorax {

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view text, bool adds_bos,
                                   int64_t truncate) {
  std::vector<int32_t> ids;
  try {
    ids = tokenizer.encode(text);
  } catch (const Error& error) {
    refuse("", error.what());
  }
  const std::optional<int32_t> bos = tokenizer.bos_id();
  const bool lacks_bos =
      adds_bos && tokenizer.adds_bos() && bos && (ids.empty() || ids.front() != *bos);
  const int64_t extra = static_cast<int64_t>(ids.size()) - (truncate - (lacks_bos ? 1 : 0));
  if (truncate > 0 && extra > 0) ids.erase(ids.begin(), ids.begin() + extra);
  if (lacks_bos) ids.insert(ids.begin(), *bos);
  return ids;
}

int64_t fit_new_tokens(int64_t prompt_tokens, std::optional<int64_t> max_new_tokens,
                       const ServiceLimits& limits, std::string_view prompt_name,
                       std::string_view max_name) {
  if (max_new_tokens && *max_new_tokens > limits.max_total_tokens - prompt_tokens) {
    refuse(max_name, fmt::format("`{}` tokens + `{}` must be <= {}. Given: {} `{}` tokens and {} "
                                 "`{}`",
                                 prompt_name, max_name, limits.max_total_tokens, prompt_tokens,
                                 prompt_name, *max_new_tokens, max_name));
  }
  if (prompt_tokens > limits.max_input_tokens) {
    refuse(prompt_name, fmt::format("`{}` must have at most {} tokens. Given: {}", prompt_name,
                                    limits.max_input_tokens, prompt_tokens));
  }
  const int64_t room = limits.max_total_tokens - prompt_tokens;
  if (room < 1) {
    refuse(prompt_name, fmt::format("`{}` has {} tokens, which leaves no room for an answer within "
                                    "{}; shorten it",
                                    prompt_name, prompt_tokens, limits.max_total_tokens));
  }
  return max_new_tokens.value_or(room);
}

}  // namespace lorax

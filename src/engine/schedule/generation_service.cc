#include "engine/schedule/generation_service.h"

namespace lorax {

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEosToken:
      return "eos_token";
    case FinishReason::kStopSequence:
      return "stop_sequence";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kTimedOut:
      return "timed_out";
    case FinishReason::kFailed:
      return "failed";
  }
  return "";
}

}  // namespace lorax

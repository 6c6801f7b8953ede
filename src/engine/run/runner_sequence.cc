#include "engine/run/runner_sequence.h"

#include "base/check.h"
#include "engine/schedule/block_allocator.h"

namespace lorax {

void take_pages(RunnerSequence& sequence, int64_t to_generate, int64_t block_size,
                int32_t& next_page) {
  const int64_t count = pages_for(sequence.length() + to_generate, block_size);
  for (int64_t i = 0; i < count; ++i) sequence.blocks.push_back(next_page++);
}

SequenceStep next_step(const RunnerSequence& sequence, int64_t tokens,
                       SequenceStep::Output output) {
  LORAX_CHECK(tokens <= sequence.pending());
  return {.tokens = std::span(sequence.tokens)
                        .subspan(static_cast<size_t>(sequence.cached), static_cast<size_t>(tokens)),
          .position = sequence.cached,
          .blocks = sequence.blocks,
          .adapter = sequence.adapter,
          .adapter_from = sequence.adapter_from,
          .output = output};
}

}  // namespace lorax

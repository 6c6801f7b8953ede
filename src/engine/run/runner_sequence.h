// A sequence that is run by hand, without an engine: of `lorax logits`, `bench`, `verify-adapter`
// and tests. (An engine's are the scheduler's.)
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/run/model_runner.h"

namespace lorax {

struct RunnerSequence {
  std::vector<int32_t> tokens;   // prompt, then what was generated
  int64_t cached = 0;            // tokens whose keys and values are in the cache
  std::vector<int32_t> blocks;   // pages, in order
  int32_t adapter = kNoAdapter;  // its adapter's slot
  int64_t adapter_from = 0;      // as of SequenceStep

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t pending() const { return length() - cached; }
};

// Gives the sequence pages for its tokens and `to_generate` more, counted up from next_page, which
// moves on.
void take_pages(RunnerSequence& sequence, int64_t to_generate, int64_t block_size,
                int32_t& next_page);

// A step over the next `tokens` pending ones of a sequence.
SequenceStep next_step(const RunnerSequence& sequence, int64_t tokens,
                       SequenceStep::Output output = SequenceStep::Output::kLastRow);

}  // namespace lorax

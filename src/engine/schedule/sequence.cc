#include "engine/schedule/sequence.h"

namespace lorax {

void take_pages(Sequence& sequence, int64_t to_generate, int64_t block_size, int32_t& next_page) {
  const int64_t count = pages_for(sequence.length() + to_generate, block_size);
  for (int64_t i = 0; i < count; ++i) sequence.blocks.push_back(next_page++);
}

}  // namespace lorax

// The tokens of one request and where its keys and values lie. Host logic only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lorax {

struct Sequence {
  std::vector<int32_t> tokens;  // prompt, then what was generated
  int64_t cached = 0;           // tokens whose keys and values are in the cache
  std::vector<int32_t> blocks;  // pages, in order
  int32_t adapter = -1;         // its adapter's slot; -1: none

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t pending() const { return length() - cached; }
};

// Pages that hold `tokens` tokens.
constexpr int64_t pages_for(int64_t tokens, int64_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

// Gives the sequence pages for its tokens and `to_generate` more, counted up from next_page, which
// moves on.
void take_pages(Sequence& sequence, int64_t to_generate, int64_t block_size, int32_t& next_page);

}  // namespace lorax

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each bit of the input changes every bit of
// the output half the time. What random numbers that depend on a counter alone are made of.
#pragma once

#include <cstdint>

namespace lorax {

constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace lorax

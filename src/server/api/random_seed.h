#pragma once

#include <cstdint>

namespace lorax {

// A seed for a request that brings none. Thread-safe.
uint64_t random_seed();

}  // namespace lorax

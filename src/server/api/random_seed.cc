#include "server/api/random_seed.h"

#include <random>

namespace lorax {

uint64_t random_seed() {
  thread_local std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace lorax

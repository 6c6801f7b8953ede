// main() of the tests that compute. Where LORAX_CPU_ISA asks for an instruction set that this
// processor lacks it ends with the code that CTest takes for "skipped".
#include <gtest/gtest.h>

#include <cstdio>
#include <exception>

#include "device/instruction_set.h"

namespace {

constexpr int kSkipped = 77;  // SKIP_RETURN_CODE in cmake/lorax.cmake

}  // namespace

int main(int argc, char** argv) {
  try {
    std::printf("instruction set: %s\n", lorax::instruction_set().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return kSkipped;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

#include "device/cpu/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "base/error.h"

namespace lorax::cpu {
namespace {

constexpr size_t kMebi = size_t{1} << 20;

long resident_kilobytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST(MemoryTest, IsAlignedAndWritable) {
  for (size_t bytes : {size_t{1}, size_t{64}, size_t{1000}, kMebi - 1, kMebi, 2 * kMebi,
                       2 * kMebi + 1, 5 * kMebi + 17}) {
    void* data = allocate(bytes);
    const size_t alignment = bytes >= kMebi ? 2 * kMebi : 64;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % alignment, 0u) << bytes;
    std::memset(data, 1, bytes);
    deallocate(data, bytes);
  }
}

TEST(MemoryTest, NoBytesAreNoMemory) {
  EXPECT_EQ(allocate(0), nullptr);
  deallocate(nullptr, 0);
}

TEST(MemoryTest, IsNotTouchedAndGivenBack) {
  const long before = resident_kilobytes();
  for (int i = 0; i < 1000; ++i) deallocate(allocate(512 * kMebi), 512 * kMebi);
  void* data = allocate(512 * kMebi);
  EXPECT_LT(resident_kilobytes() - before, 100 * 1024);
  deallocate(data, 512 * kMebi);
}

TEST(MemoryTest, SaysHowMuchIsMissing) {
  for (size_t bytes : {size_t{1} << 60, SIZE_MAX - 5}) {
    try {
      allocate(bytes);
      FAIL() << bytes;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("GiB"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace lorax::cpu

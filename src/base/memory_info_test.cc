#include "base/memory_info.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "base/out_of_memory.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class MemoryInfoTest : public ::testing::Test {
 protected:
  MemoryInfoTest() {
    root_ = fs::path(::testing::TempDir()) /
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
  }
  ~MemoryInfoTest() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  fs::path root_;
};

constexpr const char* kMeminfo =
    "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    9000 kB\n";

TEST_F(MemoryInfoTest, ThisMachineHasSome) {
  EXPECT_GT(available_memory_bytes(), uint64_t{1} << 20);
  EXPECT_LT(available_memory_bytes(), uint64_t{1} << 50);
}

TEST_F(MemoryInfoTest, NothingIsKnown) {
  EXPECT_EQ(available_memory_bytes(root_), UINT64_MAX);
  EXPECT_EQ(total_memory_bytes(root_), UINT64_MAX);
}

TEST_F(MemoryInfoTest, WithoutControlGroups) {
  write("proc/meminfo", kMeminfo);
  EXPECT_EQ(available_memory_bytes(root_), 9000u * 1024);
  EXPECT_EQ(total_memory_bytes(root_), 16000u * 1024);
}

TEST_F(MemoryInfoTest, Version2LimitsLessTheUsedCountingCachedFilesAsFree) {
  write("proc/meminfo", kMeminfo);
  write("proc/self/cgroup", "0::/a/b\n");
  write("sys/fs/cgroup/a/b/memory.max", "5000000\n");
  write("sys/fs/cgroup/a/b/memory.current", "3000000\n");
  write("sys/fs/cgroup/a/b/memory.stat", "anon 2000000\nfile 1000000\n");
  EXPECT_EQ(available_memory_bytes(root_), 3000000u);
  // The limit of a folder above is nearer.
  write("sys/fs/cgroup/a/memory.max", "4000000\n");
  write("sys/fs/cgroup/a/memory.current", "3900000\n");
  EXPECT_EQ(available_memory_bytes(root_), 100000u);
  // More is in use than the limit allows.
  write("sys/fs/cgroup/a/memory.current", "4100000\n");
  EXPECT_EQ(available_memory_bytes(root_), 0u);
}

TEST_F(MemoryInfoTest, Version2WithoutALimit) {
  write("proc/meminfo", kMeminfo);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/memory.max", "max\n");
  write("sys/fs/cgroup/a/memory.current", "3000000\n");
  EXPECT_EQ(available_memory_bytes(root_), 9000u * 1024);
}

TEST_F(MemoryInfoTest, Version1BesideAnEmptyVersion2) {
  write("proc/meminfo", kMeminfo);
  write("proc/self/cgroup", "5:cpuset:/x\n4:memory,other:/pod\n0::/ignored\n");
  write("sys/fs/cgroup/memory/pod/memory.limit_in_bytes", "6000000\n");
  write("sys/fs/cgroup/memory/pod/memory.usage_in_bytes", "5000000\n");
  write("sys/fs/cgroup/memory/pod/memory.stat", "cache 1\ntotal_cache 500000\n");
  EXPECT_EQ(available_memory_bytes(root_), 1500000u);
}

TEST_F(MemoryInfoTest, InAContainerOnlyItsOwnFolderIsMounted) {
  write("proc/meminfo", kMeminfo);
  write("proc/self/cgroup", "4:memory:/docker/0123\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "6000000\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000000\n");
  EXPECT_EQ(available_memory_bytes(root_), 1000000u);
}

TEST_F(MemoryInfoTest, TheLimitOfTheAddressSpaceCounts) {
  write("proc/meminfo", kMeminfo);
  write("proc/self/status", "Name:\tlorax\nVmSize:\t    2000 kB\n");
  write("proc/self/limits",
        "Limit  Soft Limit  Hard Limit  Units\n"
        "Max address space         3072000    unlimited    bytes\n");
  EXPECT_EQ(available_memory_bytes(root_), 1000u * 1024);
  const std::string text = describe_memory_limits(root_);
  EXPECT_NE(text.find("RLIMIT_AS"), std::string::npos) << text;
  EXPECT_NE(text.find("the machine has"), std::string::npos) << text;
  EXPECT_EQ(text.find("control group"), std::string::npos) << text;
  write("proc/self/limits", "Max address space         unlimited  unlimited    bytes\n");
  EXPECT_EQ(available_memory_bytes(root_), 9000u * 1024);
}

}  // namespace
}  // namespace lorax

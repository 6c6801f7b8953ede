#include "base/core_count.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace lorax {
namespace {

namespace fs = std::filesystem;

class CoreCountTest : public ::testing::Test {
 protected:
  CoreCountTest() {
    root_ = fs::path(::testing::TempDir()) /
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof(cores), &cores);
    allowed_ = CPU_COUNT(&cores);
  }
  ~CoreCountTest() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  fs::path root_;
  int allowed_ = 0;
};

TEST_F(CoreCountTest, AllAllowedCoresWithoutAQuota) {
  EXPECT_EQ(usable_cores(root_), allowed_);
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/cpu.max", "max 100000\n");
  EXPECT_EQ(usable_cores(root_), allowed_);
}

TEST_F(CoreCountTest, Version2QuotaIsRoundedUp) {
  write("proc/self/cgroup", "0::/a\n");
  write("sys/fs/cgroup/a/cpu.max", "50000 100000\n");
  EXPECT_EQ(usable_cores(root_), 1);
  write("sys/fs/cgroup/a/cpu.max", "110000 100000\n");
  EXPECT_EQ(usable_cores(root_), std::min(2, allowed_));
  write("sys/fs/cgroup/cpu.max", "100000 100000\n");  // of the folder above
  EXPECT_EQ(usable_cores(root_), 1);
}

TEST_F(CoreCountTest, Version1Quota) {
  write("proc/self/cgroup", "2:cpu,cpuacct:/a\n");
  write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "90000\n");
  EXPECT_EQ(usable_cores(root_), 1);
  write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(usable_cores(root_), allowed_);
}

}  // namespace
}  // namespace lorax

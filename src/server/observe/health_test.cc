#include "server/observe/health.h"

#include <gtest/gtest.h>

#include <vector>

namespace lorax {
namespace {

using std::chrono::seconds;

class HealthTest : public testing::Test {
 protected:
  Health health(std::chrono::nanoseconds patience = seconds(60)) {
    return Health({.engine_works = [this] { return works_; },
                   .engine_busy = [this] { return engine_; },
                   .loaders_stuck = [this] { return loaders_; },
                   .on_change = [this](const std::string& fault) { told_.push_back(fault); }},
                  patience);
  }

  bool works_ = true;
  std::chrono::nanoseconds engine_{0};
  std::chrono::nanoseconds loaders_{0};
  std::vector<std::string> told_;
};

TEST_F(HealthTest, NothingIsWrong) {
  Health fine = health();
  engine_ = seconds(59);
  loaders_ = seconds(60);
  EXPECT_EQ(fine.fault(), "");
  EXPECT_TRUE(told_.empty());
}

TEST_F(HealthTest, AnEngineThatHangs) {
  Health hangs = health();
  engine_ = seconds(61);
  EXPECT_EQ(hangs.fault(), "the engine has been at one step for 61 s");
  engine_ = seconds(70);
  EXPECT_EQ(hangs.fault(), "the engine has been at one step for 70 s");
  engine_ = seconds(0);
  EXPECT_EQ(hangs.fault(), "");
  EXPECT_EQ(told_, (std::vector<std::string>{"the engine has been at one step for 61 s", ""}));
}

TEST_F(HealthTest, LoadersThatHang) {
  Health hangs = health();
  loaders_ = seconds(100);
  EXPECT_EQ(hangs.fault(), "no adapter has loaded, though some wait, for 100 s");
}

TEST_F(HealthTest, WithoutPatienceOnlyFailuresCount) {
  Health patient = health(seconds(0));
  engine_ = loaders_ = seconds(1'000'000);
  EXPECT_EQ(patient.fault(), "");
  works_ = false;
  EXPECT_EQ(patient.fault(), "the engine has failed");
}

}  // namespace
}  // namespace lorax

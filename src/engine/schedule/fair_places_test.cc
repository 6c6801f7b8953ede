#include "engine/schedule/fair_places.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace lorax {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A clock that moves when it is told to.
class FairPlacesTest : public testing::Test {
 protected:
  static bool take(FairPlaces& places, const std::string& flow, FairPlaces::Time now) {
    return places.take(flow, now).taken;
  }
  // As many as it gets.
  static int64_t fill(FairPlaces& places, const std::string& flow) {
    int64_t count = 0;
    while (places.take(flow, {}).taken) ++count;
    return count;
  }

  FairPlaces::Time now_{};
};

TEST_F(FairPlacesTest, NoFlowTakesTheLastPlaces) {
  for (const int64_t count : {2, 3, 4, 8, 16, 64, 128, 1024}) {
    FairPlaces places({.places = count});
    const int64_t held = fill(places, "flood");
    EXPECT_LT(held, count);
    EXPECT_GE(held * 9, (count - 2) * 8) << count;
    EXPECT_EQ(held, FairPlaces::most_alone({.places = count}));
    EXPECT_TRUE(take(places, "other", now_)) << count;
    EXPECT_FALSE(take(places, "flood", now_)) << count;
  }
}

TEST_F(FairPlacesTest, OneFlowOrNoSharingGetsAll) {
  FairPlaces single({.places = 1});
  EXPECT_EQ(fill(single, "a"), 1);
  FairPlaces plain({.places = 16, .shared = false});
  EXPECT_EQ(fill(plain, "a"), 16);
  EXPECT_EQ(FairPlaces::most_alone({.places = 16, .shared = false}), 16);
}

TEST_F(FairPlacesTest, AFlowsOwnLimit) {
  FairPlaces places({.places = 64, .most_of_one = 3});
  EXPECT_EQ(fill(places, "a"), 3);
  EXPECT_EQ(fill(places, "b"), 3);
  places.give_back("a", now_);
  EXPECT_TRUE(take(places, "a", now_));
  EXPECT_FALSE(take(places, "a", now_));
  EXPECT_EQ(FairPlaces::most_alone({.places = 64, .most_of_one = 3}), 3);
}

// All want more than there is, and take turns in any order as places come back.
TEST_F(FairPlacesTest, GreedyFlowsComeToHoldTheSame) {
  std::mt19937 random(7);
  for (const int flows : {2, 3, 10}) {
    FairPlaces places({.places = 1024});
    fill(places, "0");  // the first was there before all others
    std::vector<std::string> all;
    for (int i = 0; i < flows; ++i) all.push_back(fmt::format("{}", i));
    for (int round = 0; round < 40'000; ++round) {
      const std::string& ends = all[random() % all.size()];
      if (places.held_by(ends) > 0) places.give_back(ends, now_);
      for (int i = 0; i < 3; ++i) take(places, all[random() % all.size()], now_);
    }
    for (const std::string& flow : all) {
      EXPECT_NEAR(static_cast<double>(places.held_by(flow)), 1024.0 / flows, 128.0 / flows)
          << flow << " of " << flows;
    }
  }
}

TEST_F(FairPlacesTest, AnyOrderKeepsTheBooksAndStarvesNobody) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    FairPlaces::Options options{.places = 2 + static_cast<int64_t>(random() % 60)};
    if (random() % 3 == 0) options.most_of_one = 1 + static_cast<int64_t>(random() % 8);
    const uint64_t flows = 1 + random() % 70;
    FairPlaces places(options);
    std::map<std::string, int64_t> held;
    for (int i = 0; i < 500; ++i) {
      // The first flow asks most of the time.
      const std::string flow = fmt::format("{}", random() % 2 == 0 ? 0 : random() % flows);
      if (random() % 3 > 0) {
        const FairPlaces::Answer answer = places.take(flow, now_);
        held[flow] += answer.taken ? 1 : 0;
        if (!answer.taken) {
          EXPECT_TRUE(held[flow] > 0 || places.used() == options.places) << "seed " << seed;
          EXPECT_GE(answer.retry_after, ReturnRate::kLeast);
          EXPECT_LE(answer.retry_after, ReturnRate::kMost);
        }
      } else if (held[flow] > 0) {
        places.give_back(flow, now_);
        --held[flow];
      }
      now_ += milliseconds(random() % 2000);
      int64_t sum = 0;
      for (const auto& [name, count] : held) {
        EXPECT_EQ(places.held_by(name), count);
        sum += count;
      }
      ASSERT_EQ(places.used(), sum);
      ASSERT_LE(sum, options.places);
    }
    for (auto& [name, count] : held) {
      for (; count > 0; --count) places.give_back(name, now_);
    }
    EXPECT_EQ(places.used(), 0);
    EXPECT_EQ(places.flows(), 0u);
  }
}

// Those that have some are quicker, but what comes back is not for them.
TEST_F(FairPlacesTest, AFlowThatHasNoneAndAsksAgainGetsTheNextPlace) {
  FairPlaces places({.places = 64});
  std::vector<std::string> greedy;
  for (int i = 0; i < 40; ++i) greedy.push_back(fmt::format("{}", i));
  for (int round = 0; round < 4; ++round) {
    for (const std::string& flow : greedy) take(places, flow, now_);
  }
  for (int i = 0; take(places, fmt::format("single {}", i), now_); ++i) {
  }
  ASSERT_EQ(places.used(), 64);
  FairPlaces::Answer answer = places.take("late", now_);
  ASSERT_FALSE(answer.taken);
  places.give_back("0", now_);
  for (const std::string& flow : greedy) {
    EXPECT_FALSE(places.held_by(flow) > 0 && take(places, flow, now_)) << flow;
  }
  now_ += answer.retry_after + seconds(1);
  EXPECT_TRUE(take(places, "late", now_));
  // One that does not come back holds nothing up for long.
  answer = places.take("gone", now_);
  ASSERT_FALSE(answer.taken);
  places.give_back("1", now_);
  places.give_back("2", now_);
  EXPECT_FALSE(take(places, "3", now_));
  now_ += answer.retry_after + FairPlaces::kGrace + seconds(1);
  EXPECT_TRUE(take(places, "3", now_));
}

TEST_F(FairPlacesTest, RetryAfterFollowsWhatHasBeenSeen) {
  FairPlaces places({.places = 9});
  fill(places, "a");
  EXPECT_EQ(places.take("a", now_).retry_after, seconds(1)) << "nothing has been seen";
  for (int i = 0; i < 50; ++i) {  // one every four seconds
    now_ += seconds(4);
    places.give_back("a", now_);
    ASSERT_TRUE(take(places, "a", now_));
  }
  EXPECT_EQ(places.take("a", now_).retry_after, seconds(4));
  EXPECT_EQ(places.take("a", now_ + seconds(25)).retry_after, seconds(25)) << "they take longer";
  EXPECT_EQ(places.take("a", now_ + seconds(4000)).retry_after, ReturnRate::kMost);
  for (int i = 0; i < 200; ++i) {  // a hundred a second
    now_ += milliseconds(10);
    places.give_back("a", now_);
    ASSERT_TRUE(take(places, "a", now_));
  }
  EXPECT_EQ(places.take("a", now_).retry_after, seconds(1));
}

}  // namespace
}  // namespace lorax

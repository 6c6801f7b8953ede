#include "engine/sample/sampler.h"
#include "device/factory/device_factory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"

namespace lorax {
namespace {

using Logits = std::vector<float>;

const Logits kLogits = {1.0f, 3.0f, 2.0f, 3.0f, -1.0f};
const std::vector<int32_t> kPrompt = {0, 2};

std::vector<double> softmax(const Logits& logits, double temperature = 1.0) {
  std::vector<double> p;
  double sum = 0.0;
  for (float logit : logits) sum += p.emplace_back(std::exp(double{logit} / temperature));
  for (double& value : p) value /= sum;
  return p;
}

Logits random_logits(uint32_t seed, size_t n) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  Logits logits(n);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

class SamplerTest : public ::testing::Test {
 protected:
  std::vector<SampledToken> sample(std::vector<Logits> logits,
                                   const std::vector<SamplerRow>& rows) {
    const std::vector<float> before = flat(logits);
    std::vector<float> all = before;
    const std::span<const SampledToken> tokens = sampler_.sample(tensor(all, logits.size()), rows);
    // As bytes: a NaN is not equal to itself.
    EXPECT_EQ(std::memcmp(all.data(), before.data(), all.size() * sizeof(float)), 0);
    return {tokens.begin(), tokens.end()};
  }
  SampledToken sample_one(const Logits& logits, const SamplerState& state,
                          int32_t alternatives = 0) {
    return sample({logits}, {{.state = &state, .alternatives = alternatives}}).front();
  }
  // Token number `step` of a request, whatever came before.
  SampledToken token_at(const SamplingParameters& parameters, uint64_t step) {
    SamplerState state(parameters, kPrompt);
    for (uint64_t i = 0; i < step; ++i) state.accept(4);
    return sample_one(kLogits, state);
  }

  static std::vector<float> flat(const std::vector<Logits>& rows) {
    std::vector<float> all;
    for (const Logits& row : rows) all.insert(all.end(), row.begin(), row.end());
    return all;
  }
  static Tensor tensor(std::vector<float>& all, size_t rows) {
    return Tensor(all.data(), DType::kFloat32,
                  {static_cast<int64_t>(rows), static_cast<int64_t>(all.size() / rows)});
  }

  std::unique_ptr<Device> device_ = make_device({.name = "cpu", .threads = 2});
  Sampler sampler_{*device_};
};

TEST_F(SamplerTest, CallsUnderWayFinishInTheirOrder) {
  std::vector<float> first = random_logits(1, 300);
  std::vector<float> second = random_logits(2, 900);
  const SamplerState greedy({.temperature = 0.0f}, kPrompt);
  const SamplerState drawn({.temperature = 0.8f, .repetition_penalty = 1.5f, .seed = 3}, kPrompt);
  const std::vector<SamplerRow> rows = {
      {.state = &greedy}, {.state = &drawn, .alternatives = 2}, {.state = nullptr}};
  const std::vector<int32_t> given = {7};
  const auto copy = [](std::span<const SampledToken> tokens) {
    return std::vector<SampledToken>(tokens.begin(), tokens.end());
  };
  const auto want_first = copy(sampler_.score(tensor(first, 1), given, 3));
  const auto want_second = copy(sampler_.sample(tensor(second, 3), rows));

  std::vector<int32_t> ids(3, -7);
  for (int round = 0; round < 2; ++round) {  // buffers are used again
    sampler_.begin_score(tensor(first, 1), given, 3);
    sampler_.begin_sample(tensor(second, 3), rows, Tensor(ids.data(), DType::kInt32, {3}));
    const auto got_first = copy(sampler_.finish());
    const auto got_second = copy(sampler_.finish());
    ASSERT_EQ(got_first.size(), 1u);
    EXPECT_EQ(got_first[0].id, 7);
    EXPECT_EQ(got_first[0].logprob, want_first[0].logprob);
    EXPECT_EQ(got_first[0].alternatives.size(), 3u);
    ASSERT_EQ(got_second.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(got_second[i].id, want_second[i].id);
      EXPECT_EQ(got_second[i].logprob, want_second[i].logprob);
      EXPECT_EQ(ids[i], want_second[i].id);
    }
    EXPECT_EQ(got_second[1].alternatives.size(), 2u);
  }
}

TEST_F(SamplerTest, GreedyTakesTheLowestIdAmongEqualMaxima) {
  const SamplerState state({.temperature = 0.0f}, kPrompt);
  EXPECT_TRUE(state.is_plain_greedy());
  const SampledToken token = sample_one(kLogits, state);
  EXPECT_EQ(token.id, 1);
  EXPECT_NEAR(token.logprob, std::log(softmax(kLogits)[1]), 1e-6);
}

TEST_F(SamplerTest, LogprobsAreOfTheRawLogits) {
  SamplerState state({.temperature = 0.0f, .repetition_penalty = 10.0f, .logit_bias = {{4, 3.5f}}},
                     std::vector<int32_t>{1, 3});
  const SampledToken token = sample_one(kLogits, state, 3);
  EXPECT_EQ(token.id, 4);  // 2.5, after 1.0, 0.3, 2.0, 0.3
  EXPECT_NEAR(token.logprob, std::log(softmax(kLogits)[4]), 1e-6);
  ASSERT_EQ(token.alternatives.size(), 3u);
  EXPECT_EQ(token.alternatives[0].id, 1);
  EXPECT_EQ(token.alternatives[1].id, 3);
  EXPECT_EQ(token.alternatives[2].id, 2);
  EXPECT_NEAR(token.alternatives[2].logprob, std::log(softmax(kLogits)[2]), 1e-6);
}

TEST_F(SamplerTest, MoreAlternativesThanIds) {
  const SamplerState state({.temperature = 0.0f}, kPrompt);
  EXPECT_EQ(sample_one(kLogits, state, 100).alternatives.size(), 5u);
  Logits with_hole = kLogits;
  with_hole[2] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(sample_one(with_hole, state, 100).alternatives.size(), 4u);
}

TEST_F(SamplerTest, ScoresAPrompt) {
  std::vector<float> all = flat({kLogits, random_logits(1, 5)});
  const std::vector<int32_t> ids = {4, 0};
  const std::span<const SampledToken> tokens = sampler_.score(tensor(all, 2), ids, 2);
  ASSERT_EQ(tokens.size(), 2u);
  EXPECT_EQ(tokens[0].id, 4);
  EXPECT_NEAR(tokens[0].logprob, std::log(softmax(kLogits)[4]), 1e-6);
  EXPECT_EQ(tokens[0].alternatives.front().id, 1);
  EXPECT_NEAR(tokens[1].logprob, std::log(softmax(random_logits(1, 5))[0]), 1e-6);
  EXPECT_EQ(tokens[1].alternatives.size(), 2u);
}

// Pearson's test of draws against probabilities, at fixed seeds. 5 sigma.
void expect_frequencies(const std::map<int32_t, int>& counts, const std::vector<double>& p,
                        int draws) {
  double chi_square = 0.0;
  int classes = 0;
  for (size_t id = 0; id < p.size(); ++id) {
    const auto found = counts.find(static_cast<int32_t>(id));
    const double count = found == counts.end() ? 0.0 : found->second;
    if (p[id] == 0.0) {
      EXPECT_EQ(count, 0.0) << "id " << id;
      continue;
    }
    ++classes;
    chi_square += (count - draws * p[id]) * (count - draws * p[id]) / (draws * p[id]);
  }
  const double freedom = classes - 1;
  EXPECT_LE(chi_square, freedom + 5.0 * std::sqrt(2.0 * freedom) + 5.0);
}

TEST_F(SamplerTest, FrequenciesFollowTheProbabilities) {
  constexpr int kDraws = 20000;
  const Logits logits = random_logits(5, 60);
  struct Case {
    SamplingParameters parameters;
    std::function<bool(size_t id)> is_in;
  };
  const std::vector<double> at_one = softmax(logits);
  const double most = *std::ranges::max_element(at_one);
  const auto all = [](size_t) { return true; };
  for (const auto& [parameters, is_in] : std::vector<Case>{
           {{.temperature = 1.0f, .seed = 3}, all},
           {{.temperature = 0.5f, .seed = 4}, all},
           {{.temperature = 2.0f, .seed = 5}, all},
           {{.min_p = 0.2f, .seed = 6}, [&](size_t id) { return at_one[id] >= 0.2 * most; }}}) {
    std::vector<double> p = softmax(logits, double{parameters.temperature});
    double sum = 0.0;
    for (size_t id = 0; id < p.size(); ++id) sum += p[id] = is_in(id) ? p[id] : 0.0;
    for (double& value : p) value /= sum;
    std::map<int32_t, int> counts;
    SamplerState state(parameters, kPrompt);
    for (int i = 0; i < kDraws; ++i) {
      const int32_t id = sample_one(logits, state).id;
      ++counts[id];
      state.accept(id);
    }
    expect_frequencies(counts, p, kDraws);
  }
}

// Sixty-four requests with parameters of every kind: each gives the same tokens alone, among the
// others in any order, and on any number of threads.
TEST_F(SamplerTest, NeighboursAndThreadsDoNotMatter) {
  constexpr size_t kVocab = 2000;
  std::vector<SamplingParameters> parameters;
  for (uint64_t i = 0; i < 64; ++i) {
    SamplingParameters p{.temperature = i % 3 == 0 ? 0.0f : 0.5f + 0.05f * static_cast<float>(i),
                         .seed = i};
    if (i % 4 == 1) p.top_k = static_cast<int32_t>(i);
    if (i % 5 == 1) p.top_p = 0.9f;
    if (i % 7 == 1) p.typical_p = 0.8f;
    if (i % 6 == 1) p.min_p = 0.01f;
    if (i % 4 == 2) p.repetition_penalty = 1.5f;
    if (i % 4 == 3) p.frequency_penalty = 0.5f;
    if (i % 8 == 3) p.presence_penalty = -1.0f;
    if (i % 9 == 4) p.logit_bias = {{7, 5.0f}, {9, -5.0f}};
    if (i % 5 == 2) p.watermark = true;
    parameters.push_back(p);
  }
  const auto logits_of = [](size_t request, int step) {
    return random_logits(static_cast<uint32_t>(1000 * request) + static_cast<uint32_t>(step),
                         kVocab);
  };
  // The tokens of the requests `who`, as one batch.
  const auto texts = [&](const std::vector<size_t>& who, int threads) {
    const std::unique_ptr<Device> device = make_device({.name = "cpu", .threads = threads});
    Sampler sampler(*device);
    std::vector<SamplerState> states;
    for (size_t i : who) states.emplace_back(parameters[i], std::vector<int32_t>{3, 9, 3});
    std::map<size_t, std::vector<int32_t>> result;
    for (int step = 0; step < 6; ++step) {
      std::vector<Logits> logits;
      std::vector<SamplerRow> rows;
      for (size_t row = 0; row < who.size(); ++row) {
        logits.push_back(logits_of(who[row], step));
        rows.push_back({.state = &states[row], .alternatives = static_cast<int32_t>(row % 3)});
      }
      std::vector<float> all = flat(logits);
      const std::span<const SampledToken> tokens = sampler.sample(tensor(all, who.size()), rows);
      for (size_t row = 0; row < who.size(); ++row) {
        states[row].accept(tokens[row].id);
        result[who[row]].push_back(tokens[row].id);
      }
    }
    return result;
  };
  std::vector<size_t> everyone;
  for (size_t i = 0; i < parameters.size(); ++i) everyone.push_back(i);
  const auto together = texts(everyone, 2);
  EXPECT_EQ(texts({everyone.rbegin(), everyone.rend()}, 1), together);
  EXPECT_EQ(texts(everyone, 5), together);
  for (size_t i = 0; i < parameters.size(); i += 3) {
    EXPECT_EQ(texts({i}, 1).at(i), together.at(i)) << "request " << i;
  }
}

TEST_F(SamplerTest, TheSameSeedAndStepGiveTheSameToken) {
  int differ = 0;
  for (uint64_t step = 0; step < 200; ++step) {
    const int32_t id = token_at({.seed = 11}, step).id;
    EXPECT_EQ(id, token_at({.seed = 11}, step).id);
    if (id != token_at({.seed = 12}, step).id) ++differ;
  }
  EXPECT_GT(differ, 50);
}

TEST_F(SamplerTest, WhatIsBannedIsNotChosen) {
  const auto tokens = [&](const SamplingParameters& parameters, int count) {
    SamplerState state(parameters, kPrompt);
    std::vector<int32_t> ids;
    for (int i = 0; i < count; ++i) {
      ids.push_back(sample_one(kLogits, state).id);
      state.accept(ids.back());
    }
    return ids;
  };
  using Ids = std::vector<int32_t>;
  // Greedy gives 1, and if that may not be 3, then 2, 0, 4.
  EXPECT_EQ(tokens({.temperature = 0.0f, .allowed_ids = {0, 2}}, 2), (Ids{2, 2}));
  EXPECT_EQ(tokens({.temperature = 0.0f, .bad_words = {{1}, {3}}}, 2), (Ids{2, 2}));
  EXPECT_EQ(tokens({.temperature = 0.0f, .bad_words = {{1, 1, 1}}}, 6), (Ids{1, 1, 3, 1, 1, 3}));
  EXPECT_EQ(tokens({.temperature = 0.0f, .bad_words = {{1, 1}, {1, 3}}}, 4), (Ids{1, 2, 1, 2}));
  // The prompt ends in 2.
  EXPECT_EQ(tokens({.temperature = 0.0f, .bad_words = {{2, 1}}}, 1), (Ids{1}));
  EXPECT_EQ(tokens({.temperature = 0.0f, .ending_ids = {1, 3}, .min_tokens = 2}, 3),
            (Ids{2, 2, 1}));
  // A bias does not bring back what is banned, nor is it applied to it.
  EXPECT_EQ(tokens({.temperature = 0.0f, .logit_bias = {{1, 50.0f}}, .bad_words = {{1}}}, 1),
            (Ids{3}));
  EXPECT_EQ(tokens({.temperature = 0.0f, .allowed_ids = {1}, .bad_words = {{1}}}, 1), (Ids{-1}));
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const int32_t drawn =
        token_at({.temperature = 3.0f, .allowed_ids = {0, 4}, .seed = seed}, 0).id;
    EXPECT_TRUE(drawn == 0 || drawn == 4) << drawn;
  }
}

TEST_F(SamplerTest, PenaltiesCountWhatTheySay) {
  // Prompt 0, 2; then 1, 1, 3.
  const auto edits_of = [](const SamplingParameters& parameters) {
    SamplerState state(parameters, kPrompt);
    for (int32_t id : {1, 1, 3}) state.accept(id);
    std::vector<LogitEdit> edits;
    EditedRow row;
    state.append_edits(0, edits, row);
    std::map<int32_t, std::pair<int32_t, int32_t>> seen_and_count;
    for (const LogitEdit& edit : edits) seen_and_count[edit.id] = {edit.seen, edit.count};
    return seen_and_count;
  };
  using Edits = std::map<int32_t, std::pair<int32_t, int32_t>>;
  EXPECT_EQ(edits_of({.repetition_penalty = 1.2f}),
            (Edits{{0, {1, 0}}, {1, {1, 2}}, {2, {1, 0}}, {3, {1, 1}}}));
  EXPECT_EQ(edits_of({.frequency_penalty = 0.5f}), (Edits{{1, {1, 2}}, {3, {1, 1}}}));
  EXPECT_EQ(edits_of({.presence_penalty = 0.5f}), (Edits{{1, {1, 2}}, {3, {1, 1}}}));
  EXPECT_EQ(edits_of({.logit_bias = {{4, 1.0f}}}), (Edits{{4, {0, 0}}}));
  EXPECT_EQ(edits_of({}), Edits());
}

TEST_F(SamplerTest, AWatermarkShowsInTheText) {
  constexpr size_t kVocab = 500;
  const auto green_share = [&](bool watermark) {
    const SamplingParameters parameters{
        .watermark = watermark, .watermark_gamma = 0.25f, .watermark_delta = 4.0f, .seed = 3};
    SamplerState state(parameters, kPrompt);
    int green = 0;
    int32_t previous = kPrompt.back();
    for (uint32_t step = 0; step < 400; ++step) {
      const Watermark mark =
          SamplerState({.watermark = true, .watermark_gamma = 0.25f}, {&previous, 1})
              .choice(0)
              .watermark;
      const int32_t id = sample_one(random_logits(step, kVocab), state).id;
      green += is_green(mark.key, mark.share, id) ? 1 : 0;
      state.accept(id);
      previous = id;
    }
    return green / 400.0;
  };
  EXPECT_NEAR(green_share(false), 0.25, 0.08);
  EXPECT_GT(green_share(true), 0.8);
}

TEST_F(SamplerTest, ABadRowHarmsNobody) {
  const SamplerState greedy({.temperature = 0.0f}, kPrompt);
  const SamplerState random({}, kPrompt);
  Logits bad = kLogits;
  bad[3] = std::nanf("");
  const std::vector<SampledToken> tokens =
      sample({bad, kLogits, bad}, {{.state = &greedy}, {.state = &greedy}, {.state = &random}});
  EXPECT_EQ(tokens[0].id, -1);
  EXPECT_EQ(tokens[1].id, 1);
  EXPECT_EQ(tokens[2].id, -1);
}

// The message names the field.
void expect_refused(const SamplingParameters& parameters, const std::string& field) {
  try {
    validate(parameters, 10);
    ADD_FAILURE() << field << " was taken";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).rfind(field, 0), 0u) << error.what();
  }
}

TEST_F(SamplerTest, RefusesBadParameters) {
  const float nan = std::nanf("");
  const float infinity = std::numeric_limits<float>::infinity();
  for (float value : {-1.0f, nan, infinity}) {
    expect_refused({.temperature = value}, "temperature");
    expect_refused({.repetition_penalty = value}, "repetition_penalty");
  }
  expect_refused({.repetition_penalty = 0.0f}, "repetition_penalty");
  expect_refused({.top_k = -1}, "top_k");
  for (float value : {0.0f, -0.5f, 1.5f, nan}) {
    expect_refused({.top_p = value}, "top_p");
    expect_refused({.typical_p = value}, "typical_p");
  }
  for (float value : {-0.1f, 1.1f, nan}) expect_refused({.min_p = value}, "min_p");
  for (float value : {-2.1f, 2.1f, nan, infinity}) {
    expect_refused({.frequency_penalty = value}, "frequency_penalty");
    expect_refused({.presence_penalty = value}, "presence_penalty");
  }
  expect_refused({.logit_bias = {{-1, 0.0f}}}, "logit_bias");
  expect_refused({.logit_bias = {{10, 0.0f}}}, "logit_bias");
  expect_refused({.logit_bias = {{1, 101.0f}}}, "logit_bias");
  expect_refused({.logit_bias = {{1, nan}}}, "logit_bias");
  for (float value : {0.0f, 1.0f, nan}) {
    expect_refused({.watermark_gamma = value}, "watermark_gamma");
  }
  expect_refused({.watermark_delta = infinity}, "watermark_delta");
  validate({}, 10);
  validate({.temperature = 0.0f,
            .top_k = 0,
            .top_p = 1.0f,
            .typical_p = 1.0f,
            .min_p = 1.0f,
            .repetition_penalty = 0.5f,
            .frequency_penalty = -2.0f,
            .presence_penalty = 2.0f,
            .logit_bias = {{9, -100.0f}}},
           10);
}

}  // namespace
}  // namespace lorax

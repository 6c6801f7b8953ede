// Device::attention on every device and in both model dtypes, against the reference in double.
#include <gtest/gtest.h>

#include <tuple>

#include "attention_case.h"
#include "device_tensor.h"

namespace lorax::testing {
namespace {

const std::vector<AttentionCase>& cases() {
  // Prefill, decode, and a chunk after cached tokens.
  static const std::vector<AttentionCase::Sequence> kMixed = {
      {1, 1}, {5, 5}, {1, 17}, {3, 64}, {1, 65}, {30, 100}, {1, 200}, {131, 131}};
  // Across partitions of long contexts.
  static const std::vector<AttentionCase::Sequence> kLong = {
      {1, 2500}, {40, 1044}, {1, 1024}, {1, 1025}};
  static const std::vector<AttentionCase> kCases = {
      {"Gemma2", {8, 4, 256}, 16, {0.0625f, 50.0f, 0}, kMixed},
      {"Gemma2Window", {8, 4, 256}, 16, {0.0625f, 50.0f, 40}, kMixed},
      {"WindowOfOne", {4, 2, 64}, 16, {0.125f, 0.0f, 1}, kMixed},
      {"WindowOfATile", {4, 2, 64}, 16, {0.125f, 0.0f, 64}, kMixed},
      {"WindowBeyondAllLengths", {4, 2, 64}, 16, {0.125f, 0.0f, 4096}, kMixed},
      {"ScoresBeyondTheCap", {4, 2, 64}, 16, {1.0f, 5.0f, 0}, kMixed, 4.0},
      {"SharpScores", {4, 2, 64}, 16, {1.0f, 0.0f, 0}, kMixed, 4.0},
      {"BlocksOf1", {4, 2, 16}, 1, {0.25f, 0.0f, 0}, kMixed},
      {"BlocksOf3", {4, 2, 16}, 3, {0.25f, 50.0f, 11}, kMixed},
      {"BlocksOf64", {4, 2, 16}, 64, {0.25f, 50.0f, 0}, kMixed},
      {"OneHead", {1, 1, 32}, 16, {0.2f, 0.0f, 0}, kMixed},
      {"EveryHeadItsOwnKeys", {5, 5, 32}, 16, {0.2f, 50.0f, 0}, kMixed},
      {"ManyHeadsOneKey", {12, 1, 32}, 16, {0.2f, 50.0f, 30}, kMixed},
      {"MoreHeadsThanATile", {100, 2, 8}, 16, {0.3f, 0.0f, 0}, {{2, 70}, {1, 3}}},
      {"HeadSize8", {4, 2, 8}, 16, {0.3f, 50.0f, 0}, kMixed},
      {"HeadSize24", {4, 2, 24}, 16, {0.2f, 50.0f, 0}, kMixed},
      {"HeadSize80", {4, 2, 80}, 16, {0.1f, 50.0f, 0}, kMixed},
      {"HeadSize128", {4, 2, 128}, 16, {0.1f, 50.0f, 0}, kMixed},
      {"Long", {4, 2, 64}, 16, {0.125f, 50.0f, 0}, kLong},
      {"LongWindow", {4, 2, 64}, 16, {0.125f, 50.0f, 1030}, kLong},
      {"LongAlone", {4, 2, 64}, 16, {0.125f, 50.0f, 0}, {{1, 5000}}},
  };
  return kCases;
}

class AttentionTest
    : public ::testing::TestWithParam<std::tuple<std::string, DType, AttentionCase>> {};

std::string name_of_param(const ::testing::TestParamInfo<AttentionTest::ParamType>& param_info) {
  const auto& [device, dtype, test_case] = param_info.param;
  return device + "_" + std::string(name_of(dtype)) + "_" + test_case.name;
}

INSTANTIATE_TEST_SUITE_P(Devices, AttentionTest,
                         ::testing::Combine(::testing::ValuesIn(available_devices()),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16),
                                            ::testing::ValuesIn(cases())),
                         name_of_param);

TEST_P(AttentionTest, MatchesTheReference) {
  const auto& [device, dtype, test_case] = GetParam();
  const AttentionInputs inputs(shared_device(device), dtype, test_case);
  const auto pieces = inputs.whole();
  expect_close(inputs.run(pieces).download(), inputs.expected(pieces), rounding(dtype, 1e-5, 1e-5));
}

}  // namespace
}  // namespace lorax::testing

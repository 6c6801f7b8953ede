// Device::attention on every device and in every model dtype, against the reference in double.
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
  static const std::vector<AttentionCase::Sequence> kPrefills = {
      {300, 300}, {64, 129}, {2, 3}, {63, 63}, {65, 400}, {1, 300}, {33, 33}};
  // Around tiles of 64 and 128 rows and of 64, 80 and 128 keys, alone and after a prefix.
  static const std::vector<AttentionCase::Sequence> kBorders = [] {
    std::vector<AttentionCase::Sequence> sequences;
    for (int border : {16, 64, 80, 128, 160, 256}) {
      for (int rows : {border - 1, border, border + 1}) {
        sequences.push_back({rows, rows});
        sequences.push_back({2 + rows % 5, rows});
      }
    }
    return sequences;
  }();
  static const std::vector<AttentionCase::Sequence> kChunks = {{64, 1000}, {17, 33},  {100, 180},
                                                               {2, 81},    {3, 1602}, {129, 640}};
  // More than a warp looks through at once, with steps of no prefill between them.
  static const std::vector<AttentionCase::Sequence> kMany = [] {
    std::vector<AttentionCase::Sequence> sequences;
    for (int i = 0; i < 75; ++i) sequences.push_back({i % 4 == 0 ? 1 : i % 23 + 1, 23 + i * 3});
    sequences[40] = {300, 410};
    return sequences;
  }();
  // Steps of one row: many, of all lengths.
  static const std::vector<AttentionCase::Sequence> kDecode = [] {
    std::vector<AttentionCase::Sequence> sequences;
    for (int i = 0; i < 64; ++i) sequences.push_back({1, 1 + i * 17});
    return sequences;
  }();
  static const std::vector<AttentionCase> kCases = {
      {"Decode64", {8, 4, 256}, 16, {0.0625f, 50.0f, 0}, kDecode},
      {"Decode64Window", {4, 2, 128}, 16, {0.1f, 50.0f, 100}, kDecode},
      {"DecodeLong", {16, 8, 256}, 16, {0.0625f, 50.0f, 0}, {{1, 3000}, {1, 1}, {1, 700}}},
      {"DecodeLongWindow", {4, 2, 256}, 16, {0.0625f, 50.0f, 2048}, {{1, 3000}, {1, 2049}}},
      {"DecodeTwoTilesOfHeads", {40, 2, 64}, 8, {0.125f, 0.0f, 0}, {{1, 500}, {1, 33}}},
      {"DecodeSharp", {4, 2, 256}, 16, {0.25f, 0.0f, 0}, {{1, 1500}, {1, 40}}, 4.0},
      {"Prefill64", {4, 2, 64}, 16, {0.125f, 50.0f, 0}, kPrefills},
      {"Prefill128", {4, 2, 128}, 16, {0.1f, 50.0f, 0}, kPrefills},
      {"Prefill256", {4, 2, 256}, 16, {0.0625f, 50.0f, 0}, kPrefills},
      {"Prefill256NoCap", {2, 2, 256}, 16, {0.0625f, 0.0f, 0}, kPrefills},
      {"Prefill256Window", {4, 2, 256}, 16, {0.0625f, 50.0f, 100}, kPrefills},
      {"Prefill256Sharp", {2, 1, 256}, 5, {0.25f, 0.0f, 90}, kPrefills, 4.0},
      {"Prefill128NoCap", {4, 2, 128}, 16, {0.1f, 0.0f, 0}, kPrefills},
      {"Prefill64NoCap", {4, 2, 64}, 16, {0.125f, 0.0f, 0}, kPrefills},
      {"PrefillBorders256", {2, 1, 256}, 16, {0.0625f, 50.0f, 0}, kBorders},
      {"PrefillBorders256OwnKeys", {1, 1, 256}, 16, {0.0625f, 50.0f, 0}, kBorders},
      {"PrefillBorders128", {2, 1, 128}, 16, {0.1f, 50.0f, 0}, kBorders},
      {"PrefillBorders64", {1, 1, 64}, 16, {0.125f, 0.0f, 0}, kBorders},
      {"PrefillChunks256", {4, 2, 256}, 16, {0.0625f, 50.0f, 0}, kChunks},
      {"PrefillChunks256NoCap", {4, 2, 256}, 16, {0.0625f, 0.0f, 0}, kChunks},
      {"PrefillChunks128", {4, 2, 128}, 16, {0.1f, 50.0f, 0}, kChunks},
      {"PrefillWindowOfOne256", {2, 1, 256}, 16, {0.0625f, 50.0f, 1}, kChunks},
      {"PrefillWindow17", {4, 2, 256}, 16, {0.0625f, 50.0f, 17}, kChunks},
      {"PrefillWindow80", {4, 2, 256}, 16, {0.0625f, 50.0f, 80}, kChunks},
      {"PrefillWindow333NoCap", {4, 2, 256}, 16, {0.0625f, 0.0f, 333}, kChunks},
      {"PrefillWindow128Of128", {2, 2, 128}, 16, {0.1f, 50.0f, 128}, kChunks},
      {"PrefillManySequences", {2, 1, 256}, 16, {0.0625f, 50.0f, 0}, kMany},
      {"PrefillManySequencesWindow", {3, 3, 64}, 16, {0.125f, 0.0f, 50}, kMany},
      {"PrefillEightHeadsOneKey", {8, 1, 128}, 16, {0.1f, 50.0f, 0}, kPrefills},
      {"PrefillMoreHeadsThanATile", {150, 1, 64}, 16, {0.125f, 50.0f, 20}, {{3, 70}, {70, 70}}},
      {"PrefillEveryHeadItsOwnKeys", {5, 5, 256}, 16, {0.0625f, 50.0f, 0}, {{130, 130}, {9, 90}}},
      {"PrefillBeyondTheCap", {4, 2, 256}, 16, {0.5f, 50.0f, 0}, kPrefills, 4.0},
      {"PrefillLargeCap", {4, 2, 256}, 16, {0.25f, 100.0f, 70}, kPrefills, 4.0},
      {"PrefillSharp128", {4, 2, 128}, 16, {0.25f, 0.0f, 0}, kPrefills, 4.0},
      {"PrefillBlocksOf8", {4, 2, 256}, 8, {0.0625f, 50.0f, 100}, kPrefills},
      {"PrefillBlocksOf8Of128", {4, 2, 128}, 8, {0.1f, 0.0f, 0}, kPrefills},
      {"PrefillBlocksOf8Of64", {4, 2, 64}, 8, {0.125f, 50.0f, 0}, kChunks},
      {"PrefillBlocksOf32", {4, 2, 256}, 32, {0.0625f, 50.0f, 90}, kPrefills},
      {"PrefillBlocksOf48", {4, 2, 128}, 48, {0.1f, 50.0f, 0}, kChunks},
      {"PrefillThreeHeadsOneKey", {3, 1, 64}, 32, {0.125f, 50.0f, 64}, kPrefills},
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
                                            ::testing::ValuesIn(kModelDtypes),
                                            ::testing::ValuesIn(cases())),
                         name_of_param);

// Beside the bounds that come with the reference. The GPU rounds the softmax's weights to the model
// dtype (docs/NUMERICS.md): in bfloat16 up to 2^-9 of the values' mean distance from their weighted
// mean, which lies near 1 for values of deviation 1 and comes near 3 where two keys of opposite
// values share a row; in float16 an eighth of it.
Tolerance tolerance(const std::string& device, DType dtype) {
  double absolute = device == "cpu" ? 0.0 : 1e-5;
  if (device != "cpu" && dtype == DType::kBFloat16) absolute = 0x1.8p-8;
  if (device != "cpu" && dtype == DType::kFloat16) absolute = 0x1.8p-11;
  return rounding(dtype, device == "cpu" ? 0.0 : 1e-5, absolute);
}

void expect_as_reference(const AttentionInputs& inputs, Tolerance tolerance) {
  const auto pieces = inputs.whole();
  Values bounds;
  const Values want = inputs.expected(pieces, &bounds);
  expect_close(inputs.run(pieces).download(), want, tolerance, bounds);
}

TEST_P(AttentionTest, MatchesTheReference) {
  const auto& [device, dtype, test_case] = GetParam();
  const AttentionInputs inputs(shared_device(device), dtype, test_case);
  expect_as_reference(inputs, tolerance(device, dtype));
}

// Tokens before every row's window, the nearest of which share a page with tokens that count.
TEST_P(AttentionTest, IgnoresWhatNobodySees) {
  const auto& [device, dtype, test_case] = GetParam();
  const int window = test_case.options.window;
  if (window == 0) GTEST_SKIP() << "every token is seen";
  AttentionInputs inputs(shared_device(device), dtype, test_case);
  for (size_t i = 0; i < test_case.sequences.size() && i < 4; ++i) {
    const auto& [rows, length] = test_case.sequences[i];
    const int first_seen = length - rows - window + 1;
    for (int before : {1, 2, 7, 16, 17, 100}) {
      if (before <= first_seen) inputs.poison(static_cast<int>(i), first_seen - before);
    }
  }
  expect_as_reference(inputs, tolerance(device, dtype));
}

}  // namespace
}  // namespace lorax::testing

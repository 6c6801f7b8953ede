// The model against Hugging Face, on every device of this build and machine: every case of
// tests/golden/data (tools/make_goldens.py) and the shipped models/tiny-gemma2.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string_view>
#include <tuple>
#include <vector>

#include <boost/json/value.hpp>

#include "device_tensor.h"
#include "formats/json_file.h"
#include "formats/safetensors.h"
#include "golden_support.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using golden::ids_of;
using golden::load;

const fs::path kData = "tests/golden/data";
const fs::path kTinyGemma2 = "models/tiny-gemma2";

std::vector<golden::Request> requests_of(const fs::path& path) {
  std::vector<golden::Request> requests;
  const json::value list = read_json_file(path / "requests.json");
  for (const json::value& request : list.as_array()) {
    requests.push_back({ids_of(request.at("input_ids")), ""});
  }
  return requests;
}

class GoldenTest : public ::testing::TestWithParam<std::tuple<std::string, fs::path>> {
 protected:
  LoadedModel load_case(DType dtype) const { return load(std::get<0>(GetParam()), path_, dtype); }

  void expect_as_near_as_hugging_face(DType dtype, std::string_view error_key);

  const fs::path path_ = std::get<1>(GetParam());
};

TEST_P(GoldenTest, LogitsAreThoseOfHuggingFaceInFloat32) {
  LoadedModel loaded = load_case(DType::kFloat32);
  const auto logits = golden::packed_logits(loaded, nullptr, requests_of(path_));
  const SafetensorsFile file = SafetensorsFile::open(path_ / "logits.safetensors");
  double worst = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const std::vector<float> expected = golden::reference(file, std::to_string(i));
    const double difference = golden::largest_difference(logits[i].logits, expected);
    ASSERT_FALSE(std::isnan(difference));
    worst = std::max(worst, difference);
  }
  RecordProperty("max_abs_error", std::to_string(worst));
  EXPECT_LT(worst, 2e-4);
}

// In 16 bits we may differ from float32 Hugging Face by no more than Hugging Face itself does when
// it computes in them.
void GoldenTest::expect_as_near_as_hugging_face(DType dtype, std::string_view error_key) {
  LoadedModel loaded = load_case(dtype);
  const auto logits = golden::packed_logits(loaded, nullptr, requests_of(path_));
  const SafetensorsFile file = SafetensorsFile::open(path_ / "logits.safetensors");
  const json::value stats = read_json_file(path_ / "greedy.json");
  const json::array& requests = stats.at("requests").as_array();
  double ours = 0.0;
  double theirs = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const std::vector<float> expected = golden::reference(file, std::to_string(i));
    ours += golden::relative_error(logits[i].logits, expected);
    theirs += requests[i].at(error_key).to_number<double>();
  }
  RecordProperty("relative_error", std::to_string(ours / static_cast<double>(logits.size())));
  EXPECT_LE(ours, 1.05 * theirs);
}

TEST_P(GoldenTest, BFloat16IsAsNearAsHuggingFaceInBFloat16) {
  expect_as_near_as_hugging_face(DType::kBFloat16, "bf16_relative_error");
}

TEST_P(GoldenTest, Float16IsAsNearAsHuggingFaceInFloat16) {
  expect_as_near_as_hugging_face(DType::kFloat16, "f16_relative_error");
}

TEST_P(GoldenTest, GreedyIdsAreThoseOfHuggingFace) {
  LoadedModel loaded = load_case(DType::kFloat32);
  const json::value greedy = read_json_file(path_ / "greedy.json");
  std::vector<golden::Request> requests;
  std::vector<std::vector<int32_t>> expected;
  const size_t tokens = greedy.at("max_new_tokens").to_number<size_t>();
  for (const json::value& request : greedy.at("requests").as_array()) {
    requests.push_back({ids_of(request.at("input_ids")), ""});
    expected.push_back(ids_of(request.at("generated_ids")));
  }
  const std::vector<size_t> counts(requests.size(), tokens);
  EXPECT_EQ(golden::greedy_ids(loaded, requests, counts), expected);
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTest,
                         ::testing::Combine(::testing::ValuesIn(testing::available_devices()),
                                            ::testing::ValuesIn(golden::folders(kData))),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param) + "_" +
                                              std::get<1>(info.param).filename().string();
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

class TinyGemma2Test : public ::testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Devices, TinyGemma2Test, ::testing::ValuesIn(testing::available_devices()),
                         [](const auto& info) { return info.param; });

TEST_P(TinyGemma2Test, GreedyIdsAreThoseOfHuggingFace) {
  LoadedModel loaded = load(GetParam(), kTinyGemma2, DType::kFloat32);
  const json::value expected = read_json_file(kTinyGemma2 / "expected.json");
  for (const json::value& prompt : expected.at("prompts").as_array()) {
    const std::vector<int32_t> generated = ids_of(prompt.at("generated_ids"));
    const std::vector<golden::Request> request = {{ids_of(prompt.at("input_ids")), ""}};
    EXPECT_EQ(golden::greedy_ids(loaded, request, {generated.size()})[0], generated)
        << prompt.at("prompt").as_string();
  }
}

}  // namespace
}  // namespace lorax

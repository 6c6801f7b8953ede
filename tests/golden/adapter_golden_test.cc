// Adapters against PEFT, on every device of this build and machine: tests/golden/adapters
// (tools/make_adapter_goldens.py) and those of models/tiny-gemma2.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <tuple>
#include <vector>

#include <boost/json/value.hpp>

#include "cli/adapter_options.h"
#include "device_tensor.h"
#include "formats/json_file.h"
#include "golden_support.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using golden::folders;
using golden::ids_of;
using golden::load;

const fs::path kAdapters = "tests/golden/adapters";
const fs::path kBases = "tests/golden/data";
const fs::path kTinyGemma2 = "models/tiny-gemma2";

std::string name_of_case(
    const ::testing::TestParamInfo<std::tuple<std::string, fs::path>>& param_info) {
  std::string name =
      std::get<0>(param_info.param) + "_" + std::get<1>(param_info.param).filename().string();
  std::ranges::replace(name, '-', '_');
  return name;
}

LoadedAdapters load_adapters(LoadedModel& loaded, const std::vector<std::string>& ids) {
  return LoadedAdapters(loaded, "", ids, [](const std::string&) {});
}

class AdapterGoldenTest : public ::testing::TestWithParam<std::tuple<std::string, fs::path>> {
 protected:
  AdapterGoldenTest() {
    const json::value list = read_json_file(path_ / "requests.json");
    for (const json::value& request : list.as_array()) {
      requests_.push_back(
          {ids_of(request.at("input_ids")), cli::read_adapter_id(request.as_object(), "request")});
      ids_.push_back(requests_.back().adapter);
    }
  }

  // What the i-th request is, for messages.
  std::string label(size_t i) const {
    return ids_[i].empty() ? "base" : ids_[i].substr(ids_[i].find_first_not_of('\0'));
  }

  // PEFT's own float32 result lies this far from float64's, so ours, which sums in another order,
  // may lie twice as far from it, and three times as far from PEFT's.
  double bound(const std::string& name) const { return 3.0 * errors_.at(name).to_number<double>(); }

  void expect_peft(const golden::Logits& got, size_t i) {
    const std::vector<float> want = golden::reference(file_, std::to_string(i));
    EXPECT_LT(golden::largest_difference(got.logits, want), bound(std::to_string(i))) << label(i);
    const std::string speculative = std::to_string(i) + ".speculative";
    if (file_.find(speculative) == nullptr) {
      EXPECT_TRUE(got.speculative.empty()) << label(i);
    } else {
      EXPECT_LT(golden::largest_difference(got.speculative, golden::reference(file_, speculative)),
                bound(speculative))
          << label(i);
    }
  }

  void expect_as_near_as_peft(DType dtype);

  const fs::path path_ = std::get<1>(GetParam());
  LoadedModel loaded_ = load(std::get<0>(GetParam()), kBases / path_.filename(), DType::kFloat32);
  const SafetensorsFile file_ = SafetensorsFile::open(path_ / "logits.safetensors");
  const json::value errors_ = read_json_file(path_ / "errors.json");
  std::vector<golden::Request> requests_;
  std::vector<std::string> ids_;
};

TEST_P(AdapterGoldenTest, OneMixedBatchGivesPeftsLogits) {
  const LoadedAdapters adapters = load_adapters(loaded_, ids_);
  const std::vector<golden::Logits> logits = golden::packed_logits(loaded_, &adapters, requests_);
  for (size_t i = 0; i < logits.size(); ++i) expect_peft(logits[i], i);
}

// On the CPU to the last bit as in the batch.
TEST_P(AdapterGoldenTest, EachAloneGivesPeftsLogits) {
  const LoadedAdapters all = load_adapters(loaded_, ids_);
  const std::vector<golden::Logits> batch = golden::packed_logits(loaded_, &all, requests_);
  for (size_t i = 0; i < requests_.size(); ++i) {
    const LoadedAdapters one = load_adapters(loaded_, {ids_[i]});
    const golden::Logits alone = golden::packed_logits(loaded_, &one, {requests_[i]})[0];
    expect_peft(alone, i);
    if (std::get<0>(GetParam()) != "cpu") continue;
    EXPECT_EQ(alone.logits, batch[i].logits) << label(i);
    EXPECT_EQ(alone.speculative, batch[i].speculative) << label(i);
  }
}

// In 16 bits every adapter's logits lie as near to the exact ones as those of PEFT, which keeps A
// and B in float32.
void AdapterGoldenTest::expect_as_near_as_peft(DType dtype) {
  LoadedModel loaded = load(std::get<0>(GetParam()), kBases / path_.filename(), dtype);
  const LoadedAdapters adapters = load_adapters(loaded, ids_);
  const std::vector<golden::Logits> logits = golden::packed_logits(loaded, &adapters, requests_);
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto expect_near = [&](const std::string& name, const std::vector<float>& got) {
      const double error = golden::relative_error(got, golden::reference(file_, name));
      const double peft =
          errors_.at(fmt::format("{}.{}", name, name_of(dtype))).to_number<double>();
      EXPECT_LE(error, peft) << label(i) << " " << name << ": " << error / peft << " of PEFT's";
    };
    expect_near(std::to_string(i), logits[i].logits);
    const std::string speculative = std::to_string(i) + ".speculative";
    if (file_.find(speculative) != nullptr) expect_near(speculative, logits[i].speculative);
  }
}

TEST_P(AdapterGoldenTest, BFloat16IsAsNearAsPeftInBFloat16) {
  expect_as_near_as_peft(DType::kBFloat16);
}

TEST_P(AdapterGoldenTest, Float16IsAsNearAsPeftInFloat16) {
  expect_as_near_as_peft(DType::kFloat16);
}

TEST_P(AdapterGoldenTest, GreedyIdsOfOneMixedBatchArePefts) {
  const json::value greedy = read_json_file(path_ / "greedy.json");
  std::vector<std::vector<int32_t>> expected;
  std::vector<size_t> counts;
  for (const json::value& request : greedy.at("requests").as_array()) {
    expected.push_back(ids_of(request.at("generated_ids")));
    counts.push_back(expected.back().size());
  }
  ASSERT_LE(expected.size(), requests_.size());
  const std::vector<golden::Request> requests(
      requests_.begin(), requests_.begin() + static_cast<ptrdiff_t>(expected.size()));
  const std::vector<std::vector<int32_t>> ids = golden::greedy_ids(loaded_, requests, counts);
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(ids[i], expected[i]) << label(i);
}

INSTANTIATE_TEST_SUITE_P(Cases, AdapterGoldenTest,
                         ::testing::Combine(::testing::ValuesIn(testing::available_devices()),
                                            ::testing::ValuesIn(folders(kAdapters))),
                         name_of_case);

class TinyAdapterTest : public ::testing::TestWithParam<std::tuple<std::string, fs::path>> {};

INSTANTIATE_TEST_SUITE_P(Adapters, TinyAdapterTest,
                         ::testing::Combine(::testing::ValuesIn(testing::available_devices()),
                                            ::testing::ValuesIn(folders(kTinyGemma2 / "adapters"))),
                         name_of_case);

TEST_P(TinyAdapterTest, GreedyIdsArePefts) {
  const fs::path adapter = std::get<1>(GetParam());
  LoadedModel loaded = load(std::get<0>(GetParam()), kTinyGemma2, DType::kFloat32);
  const json::value list = read_json_file(adapter / "expected.json");
  std::vector<golden::Request> requests;
  std::vector<std::vector<int32_t>> expected;
  std::vector<size_t> counts;
  for (const json::value& prompt : list.at("prompts").as_array()) {
    requests.push_back({ids_of(prompt.at("input_ids")), adapter.string()});
    expected.push_back(ids_of(prompt.at("generated_ids")));
    counts.push_back(expected.back().size());
  }
  EXPECT_EQ(golden::greedy_ids(loaded, requests, counts), expected);
}

}  // namespace
}  // namespace lorax

// Adapters against PEFT, on every device of this build and machine: tests/golden/adapters
// (tools/make_adapter_goldens.py) and those of models/tiny-gemma2.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <tuple>
#include <vector>

#include <boost/json/value.hpp>

#include "cli/adapter_options.h"
#include "device_tensor.h"
#include "engine/generator.h"
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

  void expect_peft(const golden::Logits& got, size_t i) {
    const std::vector<float> want = golden::reference(file_, std::to_string(i));
    EXPECT_LT(golden::largest_difference(got.logits, want), kTolerance) << label(i);
    const std::string speculative = std::to_string(i) + ".speculative";
    if (file_.find(speculative) == nullptr) {
      EXPECT_TRUE(got.speculative.empty()) << label(i);
    } else {
      EXPECT_LT(golden::largest_difference(got.speculative, golden::reference(file_, speculative)),
                kTolerance)
          << label(i);
    }
  }

  static constexpr double kTolerance = 2e-4;

  const fs::path path_ = std::get<1>(GetParam());
  LoadedModel loaded_ = load(std::get<0>(GetParam()), kBases / path_.filename(), DType::kFloat32);
  const SafetensorsFile file_ = SafetensorsFile::open(path_ / "logits.safetensors");
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

TEST_P(AdapterGoldenTest, GreedyIdsOfOneMixedBatchArePefts) {
  const LoadedAdapters adapters = load_adapters(loaded_, ids_);
  const json::value greedy = read_json_file(path_ / "greedy.json");
  const json::array& expected = greedy.at("requests").as_array();
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < expected.size(); ++i) {
    GenerateRequest& request = requests.emplace_back();
    request.prompt = requests_[i].input_ids;
    request.max_new_tokens = static_cast<int64_t>(ids_of(expected[i].at("generated_ids")).size());
    request.sampling.temperature = 0.0f;
    request.adapter = adapters.slot(ids_[i]);
  }
  ModelRunner runner(loaded_.device(), loaded_.model(), limits_for(requests), &adapters.tables());
  const std::vector<GenerateResult> results = generate(runner, requests, {});
  for (size_t i = 0; i < results.size(); ++i) {
    std::vector<int32_t> ids;
    for (const SampledToken& token : results[i].tokens) ids.push_back(token.id);
    EXPECT_EQ(ids, ids_of(expected[i].at("generated_ids"))) << label(i);
  }
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
  const LoadedAdapters adapters = load_adapters(loaded, {adapter.string()});
  const json::value expected = read_json_file(adapter / "expected.json");
  std::vector<GenerateRequest> requests;
  for (const json::value& prompt : expected.at("prompts").as_array()) {
    GenerateRequest& request = requests.emplace_back();
    request.prompt = ids_of(prompt.at("input_ids"));
    request.max_new_tokens = static_cast<int64_t>(ids_of(prompt.at("generated_ids")).size());
    request.sampling.temperature = 0.0f;
    request.adapter = adapters.slot(adapter.string());
  }
  ModelRunner runner(loaded.device(), loaded.model(), limits_for(requests), &adapters.tables());
  const std::vector<GenerateResult> results = generate(runner, requests, {});
  for (size_t i = 0; i < results.size(); ++i) {
    std::vector<int32_t> ids;
    for (const SampledToken& token : results[i].tokens) ids.push_back(token.id);
    EXPECT_EQ(ids, ids_of(expected.at("prompts").at(i).at("generated_ids")));
  }
}

}  // namespace
}  // namespace lorax

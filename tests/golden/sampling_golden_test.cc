// Sampling against transformers' logits processors (tools/make_sampling_goldens.py).
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <boost/json/value.hpp>

#include "device_tensor.h"
#include "engine/sample/sampler_state.h"
#include "formats/json_file.h"
#include "golden_support.h"

namespace lorax::golden {
namespace {

namespace json = boost::json;
using testing::DeviceTensor;

const char* const kCases = "tests/golden/sampling/cases.json";

std::vector<double> numbers(const json::value& list) {
  std::vector<double> values;
  for (const json::value& value : list.as_array()) values.push_back(value.to_number<double>());
  return values;
}

SamplingParameters parameters_of(const json::object& fields) {
  SamplingParameters parameters;
  const std::map<std::string, float*> floats = {
      {"temperature", &parameters.temperature},
      {"top_p", &parameters.top_p},
      {"typical_p", &parameters.typical_p},
      {"min_p", &parameters.min_p},
      {"repetition_penalty", &parameters.repetition_penalty}};
  for (const auto& field : fields) {
    const std::string name(field.key());
    if (name == "top_k") {
      parameters.top_k = field.value().to_number<int32_t>();
    } else {
      *floats.at(name) = field.value().to_number<float>();
    }
  }
  validate(parameters);
  return parameters;
}

// A list of records in device memory.
template <typename T>
struct Uploaded {
  Uploaded(Device& device, const std::vector<T>& records)
      : buffer(device, records.size() * sizeof(T) + 1),
        list{static_cast<const T*>(buffer.data()), static_cast<int64_t>(records.size())} {
    device.copy_from_host(buffer.data(), records.data(), records.size() * sizeof(T));
    device.synchronize();
  }
  Buffer buffer;
  DeviceList<const T> list;
};

class SamplingGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  // The rows [n, V], each after the edits that the state asks for.
  void edit(const DeviceTensor& logits, const SamplerState& state, size_t n) {
    std::vector<LogitEdit> edits;
    std::vector<EditedRow> rows;
    for (size_t row = 0; row < n; ++row) {
      EditedRow edited;
      if (state.append_edits(static_cast<int32_t>(row), edits, edited)) rows.push_back(edited);
    }
    const Buffer saved(device_, edits.size() * sizeof(float) + 1);
    const Uploaded device_edits(device_, edits);
    device_.edit_logits(logits, Uploaded(device_, rows).list, device_edits.list.data,
                        static_cast<float*>(saved.data()));
    device_.synchronize();
  }

  // Draws each id that transformers leaves from the middle of its place in the running sum, which
  // gives another id if the set or the probabilities are others.
  void check(const json::object& sample_case, const std::vector<double>& row) {
    const std::vector<double> ids = numbers(sample_case.at("ids"));
    const std::vector<double> probabilities = numbers(sample_case.at("probabilities"));
    const std::vector<int32_t> prompt =
        sample_case.contains("prompt") ? ids_of(sample_case.at("prompt")) : std::vector<int32_t>();
    const SamplerState state(parameters_of(sample_case.at("parameters").as_object()), prompt);
    std::vector<SampledRow> choices;
    std::vector<double> all;
    std::vector<double> want;
    double sum = 0.0;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (probabilities[i] > 1e-5) {
        choices.push_back(state.choice(static_cast<int32_t>(choices.size())));
        choices.back().unit = sum + probabilities[i] / 2.0;
        all.insert(all.end(), row.begin(), row.end());
        want.push_back(ids[i]);
      }
      sum += probabilities[i];
    }
    const int64_t n = static_cast<int64_t>(choices.size());
    const int64_t width = static_cast<int64_t>(row.size());
    const DeviceTensor logits(device_, DType::kFloat32, {n, width}, all);
    edit(logits, state, choices.size());
    if (sample_case.contains("scores")) {
      const std::vector<double> scores = numbers(sample_case.at("scores"));
      const testing::Values got = logits.download();
      for (size_t id = 0; id < scores.size(); ++id) {
        EXPECT_NEAR(got[id], scores[id], 1e-6 * std::abs(scores[id])) << "id " << id;
      }
    }
    const DeviceTensor drawn(device_, DType::kInt32, {n});
    device_.sample(logits, Uploaded(device_, choices).list, drawn);
    EXPECT_EQ(drawn.download(), want);
  }

  Device& device_ = testing::shared_device(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Devices, SamplingGoldenTest,
                         ::testing::ValuesIn(testing::available_devices()));

TEST_P(SamplingGoldenTest, LeavesWhatTransformersLeaves) {
  const json::value file = read_json_file(kCases);
  size_t cases = 0;
  for (const json::value& value : file.at("cases").as_array()) {
    const json::object& sample_case = value.as_object();
    const json::string& name = sample_case.at("row").as_string();
    SCOPED_TRACE(std::string(name) + " " + std::to_string(cases));
    check(sample_case, numbers(file.at("logits").at(name)));
    ++cases;
  }
  EXPECT_GE(cases, 93u);
}

}  // namespace
}  // namespace lorax::golden

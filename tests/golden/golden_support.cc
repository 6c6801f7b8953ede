#include "golden_support.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/engine.h"
#include "engine/run/model_runner.h"
#include "engine/run/runner_sequence.h"
#include "engine/schedule/testing/collecting_sink.h"

namespace lorax::golden {

std::vector<int32_t> ids_of(const boost::json::value& list) {
  std::vector<int32_t> ids;
  for (const boost::json::value& id : list.as_array()) ids.push_back(id.to_number<int32_t>());
  return ids;
}

std::vector<std::filesystem::path> folders(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_directory()) paths.push_back(entry.path());
  }
  std::ranges::sort(paths);
  return paths;
}

LoadedModel load(const std::string& device, const std::filesystem::path& path, DType dtype) {
  return LoadedModel::from_checkpoint(path,
                                      {.device = {.name = device, .threads = 2}, .dtype = dtype});
}

std::vector<float> reference(const SafetensorsFile& file, const std::string& name) {
  const TensorInfo* info = file.find(name);
  EXPECT_NE(info, nullptr) << name;
  std::vector<float> values(info == nullptr ? 0 : info->bytes / sizeof(float));
  if (info != nullptr) file.read(*info, 0, info->bytes, values.data());
  return values;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0.0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    error += std::pow(static_cast<double>(got[i]) - want[i], 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(error / norm);
}

namespace {

// The heads' logits of the last runner.logits(): [rows, heads, V].
std::vector<float> speculative_of(ModelRunner& runner, int64_t rows) {
  const int64_t heads = runner.speculative_heads();
  const int64_t vocab = runner.vocab_size();
  std::vector<float> values(static_cast<size_t>(rows * heads * vocab));
  for (int64_t head = 0; head < heads; ++head) {
    const std::span<const float> from = runner.speculative_logits(head);
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(from.begin() + row * vocab, vocab, values.begin() + (row * heads + head) * vocab);
    }
  }
  return values;
}

}  // namespace

std::vector<Logits> packed_logits(LoadedModel& loaded, const LoadedAdapters* adapters,
                                  const std::vector<Request>& requests) {
  std::vector<RunnerSequence> sequences;
  RunnerLimits limits;
  int32_t next_page = 0;
  for (const Request& request : requests) {
    RunnerSequence& sequence = sequences.emplace_back();
    sequence.tokens = request.input_ids;
    if (adapters != nullptr) {
      sequence.adapter = adapters->slot(request.adapter);
      sequence.adapter_from = adapters->acts_from(request.adapter, sequence.tokens);
      limits.max_speculative_heads =
          std::max(limits.max_speculative_heads, adapters->speculative_heads(request.adapter));
    }
    take_pages(sequence, 0, KvCache::kBlockSize, next_page);
    limits.max_tokens += sequence.length();
    limits.max_length = std::max(limits.max_length, sequence.length());
  }
  limits.max_sequences = static_cast<int64_t>(sequences.size());
  limits.max_logits_rows = limits.max_tokens;
  limits.kv_blocks = next_page;
  ModelRunner runner(loaded.device(), loaded.model(), limits,
                     adapters != nullptr ? &adapters->tables() : nullptr);
  std::vector<SequenceStep> steps;
  for (const RunnerSequence& sequence : sequences) {
    steps.push_back(next_step(sequence, sequence.length(), SequenceStep::Output::kAllRows));
  }
  runner.step(steps);
  std::vector<Logits> results;
  int64_t row = 0;
  for (const RunnerSequence& sequence : sequences) {
    const auto part = runner.logits(row, sequence.length());
    Logits& result = results.emplace_back();
    result.logits.assign(part.begin(), part.end());
    result.speculative = speculative_of(runner, sequence.length());
    row += sequence.length();
  }
  return results;
}

std::vector<std::vector<int32_t>> greedy_ids(LoadedModel& loaded,
                                             const std::vector<Request>& requests,
                                             const std::vector<size_t>& tokens) {
  EngineOptions options;
  options.kv_blocks = 256;
  options.adapter_bytes = uint64_t{256} << 20;
  Engine engine(loaded, nullptr, options);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (size_t i = 0; i < requests.size(); ++i) {
    GenerationRequest request;
    request.prompt = requests[i].input_ids;
    request.adapter = requests[i].adapter;
    request.sampling.temperature = 0.0f;
    request.max_new_tokens = static_cast<int64_t>(tokens[i]);
    sinks.push_back(std::make_shared<CollectingSink>());
    EXPECT_EQ(engine.submit(request, sinks.back()).admission,
              GenerationService::Admission::kAccepted);
  }
  std::vector<std::vector<int32_t>> ids;
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->wait().end.error, "");
    ids.push_back(sink->wait().ids());
  }
  return ids;
}

}  // namespace lorax::golden

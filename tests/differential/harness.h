// A small Gemma 2 with random weights, and sequences run through it in steps of any cut.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/load/loaded_model.h"
#include "engine/run/model_runner.h"
#include "engine/run/runner_sequence.h"
#include "engine/schedule/block_allocator.h"
#include "models/registry/model_registry.h"

namespace lorax::differential {

inline constexpr int64_t kVocab = 301;

// Every feature at a small size: window 16, both caps, GQA, an odd vocabulary.
inline const char kConfig[] = R"({
  "model_type": "gemma2", "vocab_size": 301, "hidden_size": 72, "intermediate_size": 200,
  "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
  "max_position_embeddings": 512, "sliding_window": 16, "query_pre_attn_scalar": 24,
  "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "hidden_activation": "gelu_pytorch_tanh"})";

inline std::unique_ptr<ModelDefinition> read_definition() {
  // Tests run as processes of their own, several at once.
  const std::string path =
      ::testing::TempDir() + "forward_test_config." + std::to_string(::getpid()) + ".json";
  std::ofstream(path) << kConfig;
  return read_model_definition(path);
}

inline LoadedModel load(DType dtype, int threads, const std::string& device = "cpu") {
  return LoadedModel::with_random_weights(
      read_definition(), {.device = {.name = device, .threads = threads}, .dtype = dtype});
}

inline std::vector<int32_t> random_tokens(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(kVocab)));
  }
  return tokens;
}

// Runs sequences in steps and collects the logits of every row of each.
class Harness {
 public:
  // `adapters` may be null.
  Harness(LoadedModel& loaded, const std::vector<int64_t>& lengths,
          const AdapterTables* adapters = nullptr, bool use_graphs = true)
      : runner_(loaded.device(), loaded.model(), limits(lengths, use_graphs), adapters) {
    int32_t next_page = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
      sequences_.push_back({.tokens = random_tokens(lengths[i], static_cast<uint32_t>(i) + 1),
                            .cached = 0,
                            .blocks = {}});
      take_pages(sequences_.back(), 0, KvCache::kBlockSize, next_page);
      std::reverse(sequences_.back().blocks.begin(), sequences_.back().blocks.end());
    }
    logits_.resize(lengths.size());
  }

  // (sequence, tokens) of one step.
  void step(const std::vector<std::pair<size_t, int64_t>>& work) {
    std::vector<SequenceStep> steps;
    for (const auto& [i, tokens] : work) {
      steps.push_back(next_step(sequences_[i], tokens, SequenceStep::Output::kAllRows));
    }
    runner_.step(steps);
    int64_t row = 0;
    for (const auto& [i, tokens] : work) {
      const auto part = runner_.logits(row, tokens);
      logits_[i].insert(logits_[i].end(), part.begin(), part.end());
      row += tokens;
      sequences_[i].cached += tokens;
    }
  }

  const std::vector<float>& logits(size_t i) const { return logits_[i]; }
  ModelRunner& runner() { return runner_; }
  RunnerSequence& sequence(size_t i) { return sequences_[i]; }

 private:
  static RunnerLimits limits(const std::vector<int64_t>& lengths, bool use_graphs) {
    RunnerLimits limits;
    limits.use_graphs = use_graphs;
    for (int64_t length : lengths) {
      limits.max_tokens += length;
      limits.max_length = std::max(limits.max_length, length);
      limits.kv_blocks += pages_for(length, KvCache::kBlockSize);
    }
    limits.max_sequences = static_cast<int64_t>(lengths.size());
    limits.max_logits_rows = limits.max_tokens;
    return limits;
  }

  ModelRunner runner_;
  std::vector<RunnerSequence> sequences_;
  std::vector<std::vector<float>> logits_;
};

}  // namespace lorax::differential

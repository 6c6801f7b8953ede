// Bodies of POST /v1/completions for load: prompts of random ids, so that no cache of prefixes
// helps, and adapters as a busy server sees them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lorax {

struct CompletionPlan {
  int64_t bodies = 1024;
  int64_t prompt_tokens = 512;
  int64_t max_tokens = 128;  // exactly as many: end tokens are ignored
  int64_t vocab_size = 256000;
  // Adapters are named name0, name1, ... from `first_adapter` on; 0 adapters: the base model.
  std::string adapter_name = "adapter";
  int64_t adapters = 0;
  int64_t first_adapter = 0;
  // Adapter i is chosen in proportion to 1 / (i + 1)^zipf; below 0: they take turns.
  double zipf = 1.0;
  uint64_t seed = 1;
};

// The same plan gives the same bodies. Throws std::runtime_error for a plan without sense.
std::vector<std::string> make_completion_bodies(const CompletionPlan& plan);

}  // namespace lorax

// How a device's memory is shared out when an engine starts. Weights, the workspace of a step and
// graphs take what they need; what is left is one budget for adapters and the pages of keys and
// values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace lorax {

// All in bytes.
struct MemoryPlan {
  uint64_t total = 0;      // of the device
  uint64_t limit = 0;      // of it, what all programs together may hold
  uint64_t elsewhere = 0;  // of the limit: what the driver and other programs hold
  uint64_t weights = 0;
  uint64_t workspace = 0;  // of a step
  uint64_t graphs = 0;     // and of kernels that are loaded when they first run
  uint64_t adapters = 0;
  uint64_t kv = 0;  // keys and values

  // In gigabytes, as one line for people.
  std::string describe() const;
};

// What a plan is made from, in bytes.
struct MemoryNeeds {
  uint64_t total = 0;
  uint64_t limit = 0;
  uint64_t available = 0;  // of the limit, with the weights in place
  uint64_t weights = 0;
  uint64_t workspace = 0;
  int64_t graph_layers = 0;  // layers of all graphs together
  // Host and device memory are one: other programs want memory, too, so half of what is free stays
  // so, and keys and values take 16 GiB at most.
  bool unified = true;
  // 0: none are served. Not given: what keys and values leave if those are given, else a quarter
  // of what is free.
  std::optional<uint64_t> adapters;
  uint64_t kv = 0;       // 0: what is left
  uint64_t page = 0;     // of keys and values: they come in whole ones
  uint64_t most_kv = 0;  // more has no use
};

// Throws Error, with all the numbers, if the needs don't fit or leave not one page.
MemoryPlan share_memory(const MemoryNeeds& needs);

}  // namespace lorax

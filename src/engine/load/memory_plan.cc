#include "engine/load/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace lorax {
namespace {

// Of what is free, where nobody says.
constexpr uint64_t kAdapterShare = 4;
constexpr uint64_t kMostHostKv = uint64_t{16} << 30;
// What a GPU's driver takes for a graph, per layer; and for kernels that first run later than the
// plan, with the lists of the sampler. docs/benchmarks.md has what was measured: some less.
constexpr uint64_t kGraphLayerBytes = uint64_t{48} << 10;
constexpr uint64_t kKernelBytes = uint64_t{64} << 20;

double gigabytes(uint64_t bytes) { return static_cast<double>(bytes) * 1e-9; }

uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

[[noreturn]] void fail_for_want_of_memory(const MemoryPlan& plan, uint64_t page) {
  fail("memory is too short: {}; a page of keys and values takes {:.4f} GB. {}", plan.describe(),
       gigabytes(page),
       plan.limit < plan.total
           ? "Raise --cuda-memory-fraction, or give adapters, sequences or tokens of a step less"
           : "Give adapters, sequences, tokens of a step or keys and values less");
}

}  // namespace

std::string MemoryPlan::describe() const {
  return fmt::format(
      "of {:.2f} GB {:.2f} may be taken; {:.2f} are (by the driver and other programs), weights "
      "take {:.2f}, a step's workspace {:.2f}, graphs {:.2f}, adapters {:.2f}, keys and values "
      "{:.2f}",
      gigabytes(total), gigabytes(limit), gigabytes(elsewhere), gigabytes(weights),
      gigabytes(workspace), gigabytes(graphs), gigabytes(adapters), gigabytes(kv));
}

MemoryPlan share_memory(const MemoryNeeds& needs) {
  MemoryPlan plan;
  plan.total = needs.total;
  plan.limit = needs.limit;
  plan.elsewhere = minus(needs.limit, needs.available + needs.weights);
  plan.weights = needs.weights;
  plan.workspace = needs.workspace;
  if (!needs.unified) {
    plan.graphs = kKernelBytes + static_cast<uint64_t>(needs.graph_layers) * kGraphLayerBytes;
  }
  const uint64_t free = minus(needs.available, plan.workspace + plan.graphs);
  const uint64_t kv = needs.kv / needs.page * needs.page;
  plan.adapters =
      needs.adapters.value_or(needs.kv > 0 ? minus(free, kv) : needs.available / kAdapterShare);
  if (needs.kv > 0) {
    plan.kv = kv;
  } else {
    const uint64_t left = minus(free, plan.adapters);
    const uint64_t share = needs.unified ? std::min(left / 2, kMostHostKv) : left;
    plan.kv = std::min(share, needs.most_kv) / needs.page * needs.page;
  }
  // On a host a budget is a limit, not memory that is taken.
  const uint64_t taken = plan.kv + (needs.unified ? 0 : plan.adapters);
  if (plan.kv == 0 || taken > free) fail_for_want_of_memory(plan, needs.page);
  return plan;
}

}  // namespace lorax

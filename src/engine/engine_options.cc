#include "engine/engine_options.h"

#include <algorithm>

#include "base/error.h"
#include "base/memory_info.h"

namespace lorax {
namespace {

// Of what the weights leave, adapters get a quarter.
constexpr uint64_t kAdapterShare = 4;
// On a CPU other programs want memory, too.
constexpr uint64_t kMostHostKvBytes = uint64_t{16} << 30;
// Fewer sequences take no longer than the weights, which a step of its own reads once more.
constexpr int64_t kCrowd = 16;

int64_t chosen(int64_t given, int64_t otherwise) { return given > 0 ? given : otherwise; }

void check_not_negative(int64_t value, const char* name) {
  if (value < 0) fail("{} is {}; it must be at least 1", name, value);
}

}  // namespace

void check_options(const EngineOptions& options) {
  check_not_negative(options.max_total_tokens, "max_total_tokens");
  check_not_negative(options.max_input_tokens, "max_input_tokens");
  check_not_negative(options.max_running_sequences, "max_running_sequences");
  check_not_negative(options.step_tokens, "the token budget of a step");
  check_not_negative(options.kv_blocks, "the number of pages");
  check_not_negative(options.adapters_ahead, "the number of adapters loaded ahead");
  if (options.max_concurrent_requests < 1) {
    fail("max_concurrent_requests is {}; it must be at least 1", options.max_concurrent_requests);
  }
  if (options.adapter_slots < 1) {
    fail("adapters need at least one slot, not {}", options.adapter_slots);
  }
}

EnginePlan plan_engine(LoadedModel& model, const EngineOptions& options, bool unified_memory) {
  EnginePlan plan;
  const int64_t context = model.info().max_position_embeddings;
  ServiceLimits& limits = plan.limits;
  limits.max_total_tokens = chosen(options.max_total_tokens, context);
  if (limits.max_total_tokens > context) {
    fail("max_total_tokens is {}; the model takes at most {}", limits.max_total_tokens, context);
  }
  if (limits.max_total_tokens < 2) fail("max_total_tokens is 1; it must be at least 2");
  limits.max_input_tokens = chosen(options.max_input_tokens, limits.max_total_tokens - 1);
  if (limits.max_input_tokens >= limits.max_total_tokens) {
    fail("max_input_tokens is {}; it must be below max_total_tokens, which is {}",
         limits.max_input_tokens, limits.max_total_tokens);
  }
  limits.max_concurrent_requests = options.max_concurrent_requests;

  SchedulerOptions& scheduler = plan.scheduler;
  scheduler.block_size = KvCache::kBlockSize;
  // A CPU gains nothing from larger steps, and each keeps all streams waiting.
  const int64_t running = unified_memory ? 64 : 256;
  scheduler.max_running =
      chosen(options.max_running_sequences, std::min(running, options.max_concurrent_requests));
  scheduler.step_tokens =
      std::max(chosen(options.step_tokens, unified_memory ? 256 : 2048), scheduler.max_running);
  scheduler.chunked_prefill = options.chunked_prefill;
  if (!options.chunked_prefill) {
    scheduler.step_tokens =
        std::max(scheduler.step_tokens, limits.max_total_tokens + scheduler.max_running);
  }
  scheduler.prefix_cache = options.prefix_cache;
  // On a GPU rows cost little beside the weights, which every step reads.
  scheduler.crowd = unified_memory ? kCrowd : 0;
  scheduler.adapters.ahead = chosen(options.adapters_ahead, 8);

  plan.overlap = options.overlap.value_or(model.device().is_asynchronous());

  RunnerLimits& runner = plan.runner;
  runner.max_tokens = scheduler.step_tokens;
  runner.max_sequences = scheduler.max_running;
  runner.max_length = limits.max_total_tokens;
  runner.max_logits_rows = std::min<int64_t>(scheduler.max_running, 64);
  runner.kv_blocks = 1;

  AdapterStoreOptions& store = plan.store;
  store.unified_memory = unified_memory;
  store.slots = options.adapter_slots;
  store.loader_threads = options.adapter_loader_threads;
  store.recheck_after = options.adapter_recheck_after;
  const uint64_t device_bytes = options.adapter_bytes > 0
                                    ? options.adapter_bytes
                                    : model.device().available_memory() / kAdapterShare;
  store.device_budget = device_bytes;
  store.host_budget = unified_memory ? device_bytes
                      : options.adapter_host_bytes > 0
                          ? options.adapter_host_bytes
                          : std::max(available_memory_bytes() / kAdapterShare, device_bytes);
  return plan;
}

void plan_pages(EnginePlan& plan, const LoadedModel& model, uint64_t available_bytes,
                uint64_t workspace_bytes, const EngineOptions& options) {
  ServiceLimits& limits = plan.limits;
  const uint64_t page_bytes = model.model().kv_shape().bytes_per_token() * KvCache::kBlockSize;
  const int64_t pages_of_one = pages_for(limits.max_total_tokens, KvCache::kBlockSize);
  int64_t blocks = options.kv_blocks;
  if (blocks == 0 && options.kv_bytes > 0) {
    blocks = static_cast<int64_t>(options.kv_bytes / page_bytes);
  } else if (blocks == 0) {
    const uint64_t taken = workspace_bytes + plan.store.device_budget;
    const uint64_t left = available_bytes > taken ? available_bytes - taken : 0;
    const uint64_t share =
        plan.store.unified_memory ? std::min(left / 2, kMostHostKvBytes) : left / 20 * 19;
    // Beyond what runs and what the prefix cache makes of the same again, there is no use.
    blocks = std::min(static_cast<int64_t>(share / page_bytes),
                      2 * plan.scheduler.max_running * pages_of_one);
  }
  if (blocks < 1) {
    fail(
        "there is no memory left for keys and values: {:.2f} GB are free and the workspace and "
        "adapters take {:.2f} GB; give adapters less, or a smaller token budget per step",
        static_cast<double>(available_bytes) * 1e-9,
        static_cast<double>(workspace_bytes + plan.store.device_budget) * 1e-9);
  }
  plan.runner.kv_blocks = blocks;
  plan.scheduler.blocks = blocks;
  // A request that could not have all its pages is refused at the door.
  const int64_t most = blocks * KvCache::kBlockSize;
  if (most < 2) fail("{} pages are too few", blocks);
  limits.max_total_tokens = std::min(limits.max_total_tokens, most);
  limits.max_input_tokens = std::min(limits.max_input_tokens, limits.max_total_tokens - 1);
}

}  // namespace lorax

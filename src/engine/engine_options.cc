#include "engine/engine_options.h"

#include <algorithm>

#include "base/core_count.h"
#include "base/error.h"
#include "base/memory_info.h"
#include "engine/schedule/block_allocator.h"

namespace lorax {
namespace {

// Of the host's free memory, where adapters wait for the device.
constexpr uint64_t kHostShare = 4;

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
  check_not_negative(options.max_concurrent_requests_per_adapter,
                     "max_concurrent_requests_per_adapter");
  check_not_negative(options.adapters_ahead, "the number of adapters loaded ahead");
  if (options.max_concurrent_requests < 1) {
    fail("max_concurrent_requests is {}; it must be at least 1", options.max_concurrent_requests);
  }
  if (options.adapter_slots < 1) {
    fail("adapters need at least one slot, not {}", options.adapter_slots);
  }
}

EnginePlan plan_engine(const LoadedModel& model, const EngineOptions& options) {
  EnginePlan plan;
  const DeviceProfile profile = model.device().profile();
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
  plan.places = {.places = options.max_concurrent_requests,
                 .most_of_one = options.max_concurrent_requests_per_adapter,
                 .shared = options.shares_places};
  limits.max_of_one_flow = FairPlaces::most_alone(plan.places);

  SchedulerOptions& scheduler = plan.scheduler;
  scheduler.block_size = KvCache::kBlockSize;
  scheduler.max_running = chosen(options.max_running_sequences,
                                 std::min(profile.sequences, options.max_concurrent_requests));
  scheduler.step_tokens =
      std::max(chosen(options.step_tokens, profile.step_rows), scheduler.max_running);
  scheduler.chunked_prefill = options.chunked_prefill;
  if (!options.chunked_prefill) {
    scheduler.step_tokens =
        std::max(scheduler.step_tokens, limits.max_total_tokens + scheduler.max_running);
  }
  scheduler.prefix_cache = options.prefix_cache;
  scheduler.crowd = profile.crowd;
  scheduler.adapters.ahead = chosen(options.adapters_ahead, 8);

  plan.overlap = options.overlap.value_or(profile.is_asynchronous);

  RunnerLimits& runner = plan.runner;
  runner.max_tokens = scheduler.step_tokens;
  runner.max_sequences = scheduler.max_running;
  runner.max_length = limits.max_total_tokens;
  // On a GPU one call has the rows of all, and is part of a graph.
  runner.max_logits_rows = profile.is_asynchronous
                               ? scheduler.max_running
                               : std::min(scheduler.max_running, profile.head_rows);
  runner.kv_blocks = 1;

  AdapterStoreOptions& store = plan.store;
  store.unified_memory = model.device().memory_is_host();
  store.slots = options.adapter_slots;
  const int idle_cores = profile.is_asynchronous ? usable_cores() / 4 : 0;
  store.loader_threads =
      static_cast<int>(chosen(options.adapter_loader_threads, std::clamp(idle_cores, 2, 8)));
  store.recheck_after = options.adapter_recheck_after;
  return plan;
}

void plan_memory(EnginePlan& plan, LoadedModel& model, const EngineOptions& options) {
  const Device& device = model.device();
  ServiceLimits& limits = plan.limits;
  const int64_t pages_of_one = pages_for(limits.max_total_tokens, KvCache::kBlockSize);
  const bool with_adapters = options.adapter_bytes.value_or(1) > 0;
  MemoryNeeds needs;
  needs.total = device.total_memory();
  needs.limit = device.memory_limit();
  needs.available = device.available_memory();
  needs.weights = model.weight_bytes();
  needs.workspace = measure_runner(model.model(), plan.runner, with_adapters).bytes();
  needs.graph_layers =
      ModelRunner::graph_count(plan.runner, with_adapters) * model.info().num_hidden_layers;
  needs.unified = plan.store.unified_memory;
  needs.adapters = options.adapter_bytes;
  needs.page = model.model().kv_shape().bytes_per_token() * KvCache::kBlockSize;
  needs.kv = options.kv_blocks > 0 ? static_cast<uint64_t>(options.kv_blocks) * needs.page
                                   : options.kv_bytes;
  // Beyond what runs and what the prefix cache makes of the same again, there is no use.
  needs.most_kv = static_cast<uint64_t>(2 * plan.scheduler.max_running * pages_of_one) * needs.page;
  plan.memory = share_memory(needs);

  AdapterStoreOptions& store = plan.store;
  store.device_budget = plan.memory.adapters;
  store.host_budget = store.unified_memory ? store.device_budget
                      : options.adapter_host_bytes > 0
                          ? options.adapter_host_bytes
                          : std::max(available_memory_bytes() / kHostShare, store.device_budget);

  const int64_t blocks = static_cast<int64_t>(plan.memory.kv / needs.page);
  plan.runner.kv_blocks = blocks;
  plan.scheduler.blocks = blocks;
  // A request that could not have all its pages is refused at the door.
  const int64_t most = blocks * KvCache::kBlockSize;
  limits.max_total_tokens = std::min(limits.max_total_tokens, most);
  limits.max_input_tokens = std::min(limits.max_input_tokens, limits.max_total_tokens - 1);
}

}  // namespace lorax

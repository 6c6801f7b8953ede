// The settings of an engine, and what they come to for a model on a device.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "adapters/store/adapter_store_types.h"
#include "adapters/store/model_adapter_backend.h"
#include "engine/load/loaded_model.h"
#include "engine/load/memory_plan.h"
#include "engine/run/model_runner.h"
#include "engine/run/step_runner.h"
#include "engine/schedule/fair_places.h"
#include "engine/schedule/generation_service.h"
#include "engine/schedule/scheduler.h"
#include "formats/folder.h"

namespace lorax {

// What one step did.
struct StepReport {
  bool is_prefill = false;  // some sequence had more than one token in it
  bool succeeded = true;
  int64_t sequences = 0;
  int64_t tokens = 0;
  // From the end of the step before; if the device had nothing to do meanwhile, from its beginning.
  std::chrono::nanoseconds time{0};
  StepTimes times = {};
};

// 0 means "choose".
struct EngineOptions {
  int64_t max_total_tokens = 0;           // of one request; at most, and by default, the model's
  int64_t max_input_tokens = 0;           // of a prompt; default: all but one of these
  int64_t max_concurrent_requests = 128;  // queued and running
  int64_t max_concurrent_requests_per_adapter = 0;
  // Whether no adapter may take all places from the others (FairPlaces).
  bool shares_places = false;
  int64_t max_running_sequences = 0;  // of one step
  int64_t step_tokens = 0;            // rows of one step
  bool chunked_prefill = true;        // false: step_tokens grows to hold any prompt whole
  bool prefix_cache = true;
  uint64_t kv_bytes = 0;  // memory for keys and values; default: what the rest leaves
  int64_t kv_blocks = 0;  // the same in pages; counts if given

  // Device memory for adapters, taken at the start; on a CPU all memory for them. 0: none can be
  // used. Not given: what keys and values leave if those are given, else a quarter of what is free;
  // each adapter then takes its part when it loads.
  std::optional<uint64_t> adapter_bytes;
  uint64_t adapter_host_bytes = 0;  // host memory for adapters, where the device has its own
  int adapter_slots = 256;          // resident at once, at most
  int64_t adapters_ahead = 8;       // leases of AdapterLineOptions
  int adapter_loader_threads = 0;
  std::chrono::milliseconds adapter_recheck_after{1000};
  // Whether a step's forward is asked for before the tokens of the one in front are known: default
  // where the device works beside the host.
  std::optional<bool> overlap;
  bool measures_device = false;                          // StepTimes::device_*
  std::string base_name;                                 // what adapters may call the model
  FileBounds adapter_bounds;                             // where the files of adapters may lie
  std::vector<std::string> ignored_adapter_config_keys;  // of BaseModel
  ModelAdapterBackend::Warn on_warning = [](const std::string&) {};
  // Called after every step, from the engine's thread; must not block.
  std::function<void(const StepReport&)> on_step = [](const StepReport&) {};
  // Called once, from the engine's thread, when the engine has failed and all who waited for it
  // have been told; must not block. It takes no more requests then, and never will.
  std::function<void(const std::string& error)> on_failed = [](const std::string&) {};
};

struct EnginePlan {
  ServiceLimits limits;
  FairPlaces::Options places;  // of requests
  RunnerLimits runner;
  SchedulerOptions scheduler;
  AdapterStoreOptions store;  // without on_settled
  bool overlap = false;       // steps do
  MemoryPlan memory;          // of the device

  bool serves_adapters() const { return memory.adapters > 0; }
};

// Throws Error for options that are out of their range.
void check_options(const EngineOptions& options);
// All but what depends on memory. Throws Error for options that contradict each other or the model.
// Precondition: check_options().
EnginePlan plan_engine(const LoadedModel& model, const EngineOptions& options);
// Shares out the memory that is free now: pages, adapters and the limits that follow from them.
// Throws Error if it is too short.
void plan_memory(EnginePlan& plan, LoadedModel& model, const EngineOptions& options);

}  // namespace lorax

// The engine without a server in front: requests in the same process, over random prompts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_report.h"
#include "cli/interrupt.h"
#include "engine/load/loaded_model.h"

namespace lorax::cli {

struct EngineBenchOptions {
  std::vector<int64_t> batches = {1};
  std::vector<int64_t> prompts = {512};
  std::vector<int64_t> adapters = {0};  // so many of adapter_dir's, the first by name
  std::string adapter_dir;
  // Exponent of the adapters' shares of the requests; less than 0: they take turns.
  double zipf = -1.0;
  // Of a round, `batch` of them at a time: as one ends the next one comes. 0: `batch`, all at once.
  int64_t requests = 0;
  int64_t generate = 32;
  int repeat = 3;
  std::optional<bool> overlap;  // default: as the device is
};

// Of one case; medians over the steps of one token for each sequence of the batch, 0 if there are
// none.
struct EngineMeasurement {
  int64_t batch = 0;
  int64_t prompt = 0;
  int64_t adapters = 0;
  bool overlap = false;
  double seconds = 0.0;            // from the end of one step to that of the next
  double host_seconds = 0.0;       // of these, in which the engine's thread did not wait
  double forward_seconds = 0.0;    // of the device, as in StepTimes
  double sampling_seconds = 0.0;   // likewise
  double idle_seconds = 0.0;       // in which the device had no work
  double tokens_per_second = 0.0;  // of these steps, by their mean
  // Of whole rounds, from the first prompt to the last token.
  double round_tokens_per_second = 0.0;
};

// Every batch with every prompt and number of adapters, until `interrupt`; each is reported when it
// is measured. Throws Error for cases that the model or
// the memory does not allow, or without an adapter_dir that holds as many adapters.
void bench_engine(LoadedModel& model, const EngineBenchOptions& options, BenchReport& report,
                  const Interrupt& interrupt);

}  // namespace lorax::cli

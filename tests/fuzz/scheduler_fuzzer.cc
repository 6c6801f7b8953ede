// Any order of requests, steps, cancels and changes of adapters, with pages and places of any
// number: scheduler_harness.h checks every step, and in the end every request must end.
#include <cstddef>
#include <cstdint>

#include "../sim/scheduler_harness.h"
#include "../sim/sim_adapters.h"

namespace lorax::sim {
namespace {

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  // In [0, n); 0 once there are no more.
  int below(int n) {
    if (size_ == 0) return 0;
    --size_;
    return *data_++ % n;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

SchedulerHarness::Request request_from(Bytes& bytes) {
  SchedulerHarness::Request request;
  const int adapter = bytes.below(6);
  if (adapter > 0) request.adapter = std::string(1, static_cast<char>('a' + adapter));
  const int kind = bytes.below(3);
  request.prompt.resize(static_cast<size_t>(1 + bytes.below(40)));
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    request.prompt[i] = static_cast<int32_t>(i) * kind % 5;
  }
  request.max_new_tokens = 1 + bytes.below(40);
  request.stops_after = 1 + bytes.below(static_cast<int>(request.max_new_tokens));
  const int special = bytes.below(16);
  if (special == 1) request.discarded_after = 1;
  if (special == 2) request.reuse_prefix = false;
  if (special == 3) request.timeout = std::chrono::milliseconds(bytes.below(50));
  return request;
}

void run(Bytes bytes) {
  SchedulerOptions options;
  options.block_size = 1 + bytes.below(4);
  options.blocks = 1 + bytes.below(64);
  options.max_running = 1 + bytes.below(8);
  options.chunked_prefill = bytes.below(4) > 0;
  options.prefix_cache = bytes.below(4) > 0;
  options.step_tokens = options.max_running + bytes.below(16);
  if (!options.chunked_prefill) {
    options.step_tokens = options.max_running + options.blocks * options.block_size;
  }
  options.crowd = bytes.below(4);
  options.adapters.ahead = 1 + bytes.below(3);
  options.adapters.slow_after = std::chrono::milliseconds(5);
  SimAdapters adapters(1 + bytes.below(3));
  SchedulerHarness harness(options, adapters, /*overlaps=*/bytes.below(2) == 1);
  while (!bytes.empty()) {
    switch (bytes.below(8)) {
      case 0:
      case 1:
        harness.submit(request_from(bytes));
        break;
      case 2:
        harness.cancel(static_cast<RequestId>(bytes.below(64)));
        break;
      case 3: {
        const std::string name(1, static_cast<char>('b' + bytes.below(5)));
        adapters.set_load(name, bytes.below(10), bytes.below(4) == 0);
        break;
      }
      case 4:
        adapters.change(std::string(1, static_cast<char>('b' + bytes.below(5))));
        break;
      default:
        adapters.tick();
        harness.step();
    }
  }
  for (int64_t steps = 0; !harness.idle(); ++steps) {
    LORAX_CHECK(steps < 100000, "a request does not end");
    adapters.tick();
    harness.step();
  }
}

}  // namespace
}  // namespace lorax::sim

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lorax::sim::run({data, size});
  return 0;
}

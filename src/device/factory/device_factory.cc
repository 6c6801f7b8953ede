#include "device/factory/device_factory.h"

#include <charconv>
#include <string_view>

#include "base/error.h"
#include "device/factory/factories.h"
#include "device/factory/has_cuda.h"

namespace lorax {
namespace {

// "cuda" is 0, "cuda:<index>" that index.
int cuda_index(const std::string& name) {
  constexpr std::string_view kName = "cuda";
  if (name == kName) return 0;
  int index = -1;
  const char* begin = name.data() + kName.size() + 1;
  const char* end = name.data() + name.size();
  if (name.size() > kName.size() + 1 && name[kName.size()] == ':') {
    const auto [next, error] = std::from_chars(begin, end, index);
    if (error != std::errc() || next != end) index = -1;
  }
  if (index < 0) fail("--device {}: give cuda, or cuda:<index> such as cuda:1", name);
  return index;
}

}  // namespace

bool has_cuda() { return kHasCuda; }

std::unique_ptr<Device> make_device(const DeviceOptions& options) {
  if (options.threads < 0) fail("--threads {}: give a positive number", options.threads);
  if (options.name == "cpu") return make_cpu_device(options.threads);
  if (options.name.starts_with("cuda")) {
    const int index = cuda_index(options.name);
    if constexpr (kHasCuda) return make_cuda_device(index, options.cuda_memory_fraction);
    fail("--device {}: this build has no CUDA; build it with -DLORAX_CUDA=ON (preset cuda)",
         options.name);
  }
  fail("--device {}: must be cpu, cuda or cuda:<index>", options.name);
}

}  // namespace lorax

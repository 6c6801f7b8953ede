#include "base/error.h"
#include "device/device.h"
#include "device/factories.h"

namespace lorax {

std::unique_ptr<Device> make_device(const DeviceOptions& options) {
  if (options.threads < 0) fail("--threads {}: give a positive number", options.threads);
  if (options.name == "cpu") return make_cpu_device(options.threads);
  fail("--device {}: this build knows only 'cpu'", options.name);
}

}  // namespace lorax

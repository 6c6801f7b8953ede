#include "base/threads.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <string>

#include "base/error.h"
#include "base/out_of_memory.h"

namespace lorax {

void fail_to_start_thread(std::string_view what, const std::system_error& error) {
  rlimit limit{};
  std::string most;
  if (::getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    most = fmt::format("this user may have {} (RLIMIT_NPROC, ulimit -u); ", limit.rlim_cur);
  }
  fail(
      "cannot start a thread for {}: {}. {}the control group may allow fewer (pids.max), and each "
      "takes address space for its stack (ulimit -s): {}. Raise what limits it, or lower --threads",
      what, error.code().message(), most, describe_memory_limits());
}

}  // namespace lorax

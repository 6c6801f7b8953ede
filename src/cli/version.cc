#include "cli/version.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "device/factory/device_factory.h"
#include "device/instruction_set.h"

namespace lorax::cli {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "Clang " __clang_version__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

}  // namespace

std::string describe_version(const std::string& commit) {
  return fmt::format(
      "lorax {}\n"
      "commit           {}\n"
      "compiler         {}\n"
      "instruction set  {} (of {}; --cpu-isa or {} picks one)\n"
      "CUDA             {}",
      LORAX_VERSION, commit, kCompiler, instruction_set(), fmt::join(instruction_sets(), ", "),
      kInstructionSetVariable, has_cuda() ? "yes" : "no");
}

}  // namespace lorax::cli

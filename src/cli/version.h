// What `lorax --version` says.
#pragma once

#include <string>

namespace lorax::cli {

// The version, the commit it was built from, the compiler, the CPU's instruction set in use and
// whether CUDA is in it, a line each. Throws Error if LORAX_CPU_ISA asks for what cannot be.
std::string describe_version(const std::string& commit);

}  // namespace lorax::cli

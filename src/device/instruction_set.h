// Which of the processor's instruction sets the CPU's kernels use: the best that it has, unless a
// lower one is asked for. There is one for the whole process.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lorax {

// The environment variable that asks for one, where use_instruction_set() was not called.
inline constexpr const char* kInstructionSetVariable = "LORAX_CPU_ISA";

// Those that this processor has, by the names that people give them (scalar, sse4, avx2, avx512,
// avx512bf16; neon), the best last.
std::vector<std::string> instruction_sets();

// From now on kernels use that one and no better; "" leaves it to the environment variable. Not
// while another thread computes. Throws Error for an unknown name and for what this processor
// lacks; `asked_by` names the flag or variable in the message.
void use_instruction_set(std::string_view name, std::string_view asked_by);

// The one in use, as it is written ("AVX-512 BF16"). Throws Error if the environment variable asks
// for what cannot be.
std::string instruction_set();

}  // namespace lorax

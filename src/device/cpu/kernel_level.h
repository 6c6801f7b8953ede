// What device/instruction_set.h chose, as kernels ask for it.
#pragma once

namespace lorax::cpu {

// Obeys the environment variable, the first time that it is called. Every CpuDevice does so before
// it computes.
void choose_instruction_set();

// Whether products may use AVX-512 BF16: the processor has it, and nobody asked for less.
bool uses_avx512_bf16();

}  // namespace lorax::cpu

#include "device/instruction_set.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "device/cpu/kernel_level.h"
#include "hwy/highway.h"

namespace lorax {
namespace {

struct Level {
  const char* name;     // as people give it
  const char* written;  // as it is shown
  int64_t target;       // Highway's; better ones have lower bits
  bool bf16 = false;    // with the products of AVX-512 BF16
};

// From the lowest to the best.
constexpr Level kLevels[] = {
    {"scalar", "scalar", HWY_TARGETS&(HWY_SCALAR | HWY_EMU128)},
#if HWY_ARCH_X86
    {"sse4", "SSE4", HWY_SSE4},
    {"avx2", "AVX2", HWY_AVX2},
    {"avx512", "AVX-512", HWY_AVX3},
    {"avx512bf16", "AVX-512 BF16", HWY_AVX3, true},
#elif HWY_ARCH_ARM
    {"neon", "NEON", HWY_NEON},
#endif
};

// The bits that CPUID gives, where the system saves the registers.
bool has_avx512_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

std::vector<Level> levels_of_processor() {
  static const int64_t supported = hwy::SupportedTargets();  // before any is disabled
  std::vector<Level> levels;
  for (const Level& level : kLevels) {
    if ((level.target & supported & HWY_TARGETS) == 0) continue;
    if (!level.bf16 || has_avx512_bf16()) levels.push_back(level);
  }
  return levels;
}

// Null until one is chosen.
std::atomic<const Level*> chosen = nullptr;

void choose(const Level& level) {
  chosen = std::ranges::find(kLevels, std::string_view(level.name), &Level::name);
  hwy::DisableTargets(level.target - 1);  // the better ones
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Level& level : levels_of_processor()) names.emplace_back(level.name);
  return names;
}

void use_instruction_set(std::string_view name, std::string_view asked_by) {
  if (name.empty()) return;
  const std::vector<Level> levels = levels_of_processor();
  const auto level = std::ranges::find(levels, name, &Level::name);
  if (level != levels.end()) return choose(*level);
  const bool is_known = std::ranges::find(kLevels, name, &Level::name) != std::end(kLevels);
  fail("{} {}: {}; give one of {}", asked_by, name,
       is_known ? "this processor lacks it" : "there is no such instruction set",
       fmt::join(instruction_sets(), ", "));
}

std::string instruction_set() {
  cpu::choose_instruction_set();
  return chosen.load()->written;
}

namespace cpu {

void choose_instruction_set() {
  if (chosen != nullptr) return;
  const char* name = std::getenv(kInstructionSetVariable);
  if (name != nullptr && name[0] != '\0') return use_instruction_set(name, kInstructionSetVariable);
  choose(levels_of_processor().back());
}

bool uses_avx512_bf16() {
  choose_instruction_set();
  return chosen.load()->bf16;
}

}  // namespace cpu
}  // namespace lorax

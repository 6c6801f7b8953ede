#include "peak_flops.h"

#include <chrono>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lorax {
namespace {

constexpr int64_t kTurns = 1 << 20;

// kTurns of twelve independent multiply-adds of the vector V; FLOP of one of them in kFlop.
// Everything stays in registers: `asm` makes the compiler believe that each sum is used.
#define LORAX_PEAK_LOOP(V, zero, multiply_add) \
  V sums[12];                                  \
  for (V & sum : sums) sum = zero;             \
  for (int64_t i = 0; i < kTurns; ++i) {       \
    for (V & sum : sums) {                     \
      sum = multiply_add;                      \
      asm volatile("" : "+v"(sum));            \
    }                                          \
  }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void run_avx2() {
  const __m256 one = _mm256_set1_ps(1.0f);
  LORAX_PEAK_LOOP(__m256, _mm256_setzero_ps(), _mm256_fmadd_ps(one, one, sum))
}

__attribute__((target("avx512f"))) void run_avx512() {
  const __m512 one = _mm512_set1_ps(1.0f);
  LORAX_PEAK_LOOP(__m512, _mm512_setzero_ps(), _mm512_fmadd_ps(one, one, sum))
}

__attribute__((target("avx512f,avx512bf16"))) void run_avx512_bf16() {
  const __m512bh one = (__m512bh)_mm512_set1_epi16(0x3f80);
  LORAX_PEAK_LOOP(__m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(sum, one, one))
}
#endif

struct Loop {
  std::string_view instruction_set;
  void (*run)();
  double flop;  // of one multiply-add
};

constexpr Loop kLoops[] = {
#if defined(__x86_64__)
    {"AVX2", run_avx2, 16},
    {"AVX3", run_avx512, 32},
    {"AVX-512 BF16", run_avx512_bf16, 64},
#endif
    {"", nullptr, 0},
};

}  // namespace

double peak_flops(ThreadPool& pool, std::string_view instruction_set) {
  for (const Loop& loop : kLoops) {
    if (loop.instruction_set != instruction_set) continue;
    const auto start = std::chrono::steady_clock::now();
    pool.parallel_for(pool.size() * 2, [&](int64_t, int) { loop.run(); });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return 12.0 * kTurns * loop.flop * pool.size() * 2 / elapsed.count();
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace lorax

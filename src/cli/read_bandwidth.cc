#include "cli/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace lorax::cli {

double read_bandwidth(ThreadPool& pool, const void* data, size_t bytes) {
  constexpr size_t kPiece = size_t{4} << 20;
  constexpr size_t kLanes = 32;  // four 64-byte lines in flight in each turn of the loop
  const auto start = std::chrono::steady_clock::now();
  std::atomic<uint64_t> sink{0};
  pool.parallel_for(static_cast<int64_t>((bytes + kPiece - 1) / kPiece), [&](int64_t piece, int) {
    const size_t begin = static_cast<size_t>(piece) * kPiece;
    const size_t words = std::min(kPiece, bytes - begin) / sizeof(uint64_t);
    const uint64_t* at = reinterpret_cast<const uint64_t*>(static_cast<const char*>(data) + begin);
    uint64_t sums[kLanes] = {};
    for (size_t i = 0; i + kLanes <= words; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] ^= at[i + lane];
    }
    uint64_t sum = 0;
    for (uint64_t part : sums) sum ^= part;
    sink.fetch_xor(sum, std::memory_order_relaxed);
  });
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  // The sum is used, so that the reads cannot be left out.
  return static_cast<double>(bytes) / elapsed.count() * 1e-9 + (sink.load() == 1 ? 1e-12 : 0.0);
}

}  // namespace lorax::cli

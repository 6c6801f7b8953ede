// Runs kernels on the host, for tests of their logic where there is no GPU: what each thread
// computes, whom it waits for and where it finds things. A block is a thread of the host, its
// threads are fibers that take turns; all blocks of a grid run at the same time, as kernels expect
// whose blocks wait for each other. Memory is strictly ordered and copies are done at once, so
// nothing here finds a missing fence or a race, and a wait that never ends hangs the test.
//
// cuda_builtins.h makes CUDA's words mean this; shadow/ has the headers of device/cuda that are
// written in PTX.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace lorax::emulator {

// A barrier in shared memory: complete when all have arrived and all bytes have come. Bytes may
// come before they are expected.
struct Barrier {
  int count = 0;
  int arrivals_left = 0;
  int bytes_left = 0;
  uint32_t phase = 0;
};

struct Cluster;
class Fibers;

// The block that the calling fiber belongs to.
class Block {
 public:
  static constexpr int kWarp = 32;
  static constexpr size_t kExchangeBytes = 64;

  Block(unsigned index, unsigned grid, unsigned threads, Cluster& cluster);
  ~Block();
  static Block& current();

  // Runs `kernel` once for each thread. By the host's thread that is to be the block.
  void run(const std::function<void()>& kernel);

  unsigned thread() const;
  unsigned index() const { return index_; }
  unsigned grid() const { return grid_; }
  unsigned threads() const { return threads_; }

  // Lets the other fibers run, and other blocks if all have run.
  void yield();
  void yield_to_warp();  // the others of the thread's warp alone
  // Until `count` of the block's threads have called this with `id`.
  void synchronize(int id, unsigned count);
  void arrive(int id, unsigned count);  // the same without waiting for the others
  void synchronize_cluster();

  // What the 32 threads of the warp hand in, to each of them.
  template <typename T>
  void exchange(const T& value, T (&all)[kWarp]) {
    static_assert(sizeof(T) <= kExchangeBytes);
    Warp& warp = warps_[thread() / kWarp];
    const unsigned generation = warp.generation;
    auto& data = warp.data[generation % 2];
    std::memcpy(data[thread() % kWarp], &value, sizeof(T));
    if (++warp.arrived == kWarp) {
      warp.arrived = 0;
      ++warp.generation;
    }
    // The others of the warp mostly come here next; those who wait elsewhere need other warps.
    for (unsigned turn = 1; warp.generation == generation; ++turn) {
      turn % (2 * kWarp) == 0 ? yield() : yield_to_warp();
    }
    for (int lane = 0; lane < kWarp; ++lane) std::memcpy(&all[lane], data[lane], sizeof(T));
  }

  // Shared memory is the block's thread-local memory; addresses of it fit 32 bits and are the same
  // in every block of a grid.
  uint32_t address_of(const void* pointer) const;
  void* pointer_to(uint32_t address) const;
  void init_barrier(uint32_t address, int arrivals);
  // So many have arrived, and so many more bytes are to come. From any block of the cluster.
  void update_barrier(uint32_t address, int arrivals, int bytes);
  uint32_t barrier_phase(uint32_t address);
  Block& of_cluster(int rank) const;
  // The memory at that address of a block of the cluster.
  void* pointer_in_cluster(uint32_t address, int rank) const;

 private:
  struct Named {
    unsigned arrived = 0;
    unsigned generation = 0;
  };
  struct Warp {
    unsigned arrived = 0;
    unsigned generation = 0;
    unsigned char data[2][kWarp][kExchangeBytes];
  };

  unsigned index_;
  unsigned grid_;
  unsigned threads_;
  Cluster& cluster_;
  uintptr_t base_ = 0;  // where address 0 lies
  std::map<int, Named> named_;
  std::vector<Warp> warps_;
  std::vector<unsigned> cluster_waits_;  // of each thread
  std::mutex barriers_mutex_;
  std::map<uint32_t, Barrier> barriers_;
  std::unique_ptr<Fibers> fibers_;
};

// A launch: `cluster` blocks in a row form one.
void run(unsigned grid, unsigned cluster, unsigned threads, const std::function<void()>& kernel);

}  // namespace lorax::emulator

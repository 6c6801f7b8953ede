#include "emulator.h"

#include <ucontext.h>

#include <array>
#include <atomic>
#include <thread>

namespace lorax::emulator {
namespace {

constexpr size_t kStackBytes = size_t{64} << 10;
// Address 0 lies so far before `anchor`, of which all thread-local memory is nearer than that.
constexpr uintptr_t kBeforeAnchor = uintptr_t{1} << 20;

thread_local Block* current_block = nullptr;
// At the same distance from all other thread-local memory in every thread, and aligned as a kernel
// may want its own.
alignas(1024) thread_local char anchor[1024];

}  // namespace

struct Cluster {
  std::vector<Block*> blocks;
  std::atomic<unsigned> arrivals{0};
};

// Of one block; they run in turns, in the order of their numbers.
class Fibers {
 public:
  Fibers(unsigned count, const std::function<void()>& body)
      : body_(body), contexts_(count), stacks_(count), has_ended_(count, false) {}

  void run() {
    for (size_t i = 0; i < contexts_.size(); ++i) {
      stacks_[i] = std::make_unique<std::array<char, kStackBytes>>();
      getcontext(&contexts_[i]);
      contexts_[i].uc_stack.ss_sp = stacks_[i]->data();
      contexts_[i].uc_stack.ss_size = kStackBytes;
      contexts_[i].uc_link = nullptr;
      makecontext(&contexts_[i], enter, 0);
    }
    current_ = 0;
    running = this;
    swapcontext(&main_, &contexts_[0]);
  }

  unsigned current() const { return current_; }

  void yield() {
    const unsigned next = next_after(current_);
    if (next <= current_) std::this_thread::yield();
    go_on_with(next);
  }

  void yield_to_warp() {
    const unsigned first = current_ / Block::kWarp * Block::kWarp;
    for (unsigned i = 1; i < Block::kWarp; ++i) {
      const unsigned next = first + (current_ + i) % Block::kWarp;
      if (next < contexts_.size() && !has_ended_[next]) return go_on_with(next);
    }
  }

 private:
  static void enter() { running->body(); }

  void go_on_with(unsigned next) {
    if (next == current_) return;
    const unsigned me = current_;
    current_ = next;
    swapcontext(&contexts_[me], &contexts_[next]);
  }

  void body() {
    body_();
    has_ended_[current_] = true;
    const unsigned next = next_after(current_);
    if (next == current_) setcontext(&main_);
    current_ = next;
    setcontext(&contexts_[next]);
  }

  // The next one that has not ended, or the same if there is no other.
  unsigned next_after(unsigned fiber) const {
    const unsigned count = static_cast<unsigned>(contexts_.size());
    for (unsigned i = 1; i < count; ++i) {
      if (!has_ended_[(fiber + i) % count]) return (fiber + i) % count;
    }
    return fiber;
  }

  static thread_local Fibers* running;

  const std::function<void()>& body_;
  std::vector<ucontext_t> contexts_;
  std::vector<std::unique_ptr<std::array<char, kStackBytes>>> stacks_;
  std::vector<bool> has_ended_;
  ucontext_t main_{};
  unsigned current_ = 0;
};

thread_local Fibers* Fibers::running = nullptr;

Block::Block(unsigned index, unsigned grid, unsigned threads, Cluster& cluster)
    : index_(index),
      grid_(grid),
      threads_(threads),
      cluster_(cluster),
      warps_((threads + kWarp - 1) / kWarp),
      cluster_waits_(threads) {}

Block::~Block() = default;

Block& Block::current() { return *current_block; }

void Block::run(const std::function<void()>& kernel) {
  current_block = this;
  base_ = reinterpret_cast<uintptr_t>(anchor) - kBeforeAnchor;
  // Those of a cluster look into each other.
  ++cluster_.arrivals;
  const unsigned blocks = static_cast<unsigned>(cluster_.blocks.size());
  while (cluster_.arrivals < blocks) std::this_thread::yield();
  fibers_ = std::make_unique<Fibers>(threads_, kernel);
  fibers_->run();
  // Its thread-local memory ends with it.
  ++cluster_.arrivals;
  while (cluster_.arrivals < blocks * (2 + threads_ * cluster_waits_[0])) {
    std::this_thread::yield();
  }
}

unsigned Block::thread() const { return fibers_->current(); }

void Block::yield() { fibers_->yield(); }

void Block::yield_to_warp() { fibers_->yield_to_warp(); }

void Block::synchronize(int id, unsigned count) {
  const unsigned generation = named_[id].generation;
  arrive(id, count);
  while (named_[id].generation == generation) yield();
}

void Block::arrive(int id, unsigned count) {
  Named& named = named_[id];
  if (++named.arrived != count) return;
  named.arrived = 0;
  ++named.generation;
}

void Block::synchronize_cluster() {
  const unsigned blocks = static_cast<unsigned>(cluster_.blocks.size());
  const unsigned all = blocks * (1 + threads_ * ++cluster_waits_[thread()]);
  ++cluster_.arrivals;
  while (cluster_.arrivals < all) yield();
}

uint32_t Block::address_of(const void* pointer) const {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(pointer) - base_);
}

void* Block::pointer_to(uint32_t address) const { return reinterpret_cast<void*>(base_ + address); }

void Block::init_barrier(uint32_t address, int arrivals) {
  const std::lock_guard lock(barriers_mutex_);
  barriers_[address] = {.count = arrivals, .arrivals_left = arrivals};
}

void Block::update_barrier(uint32_t address, int arrivals, int bytes) {
  const std::lock_guard lock(barriers_mutex_);
  Barrier& barrier = barriers_[address];
  barrier.arrivals_left -= arrivals;
  barrier.bytes_left += bytes;
  if (barrier.arrivals_left != 0 || barrier.bytes_left != 0) return;
  ++barrier.phase;
  barrier.arrivals_left = barrier.count;
}

uint32_t Block::barrier_phase(uint32_t address) {
  const std::lock_guard lock(barriers_mutex_);
  return barriers_[address].phase;
}

Block& Block::of_cluster(int rank) const { return *cluster_.blocks[static_cast<size_t>(rank)]; }

void* Block::pointer_in_cluster(uint32_t address, int rank) const {
  return cluster_.blocks[static_cast<size_t>(rank)]->pointer_to(address);
}

void run(unsigned grid, unsigned cluster, unsigned threads, const std::function<void()>& kernel) {
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Cluster>> clusters;
  for (unsigned index = 0; index < grid; ++index) {
    if (index % cluster == 0) clusters.push_back(std::make_unique<Cluster>());
    blocks.push_back(std::make_unique<Block>(index, grid, threads, *clusters.back()));
    clusters.back()->blocks.push_back(blocks.back().get());
  }
  std::vector<std::thread> running;
  for (const auto& block : blocks) {
    running.emplace_back([&kernel, &block] { block->run(kernel); });
  }
  for (std::thread& thread : running) thread.join();
}

}  // namespace lorax::emulator

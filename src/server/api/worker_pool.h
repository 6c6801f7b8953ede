// Threads for what requests need before the engine sees them: adapters' folders are looked up,
// templates rendered, texts tokenised. Nothing of that runs on a thread of the transport.
//
// Whoever asks for much, or for what takes long, delays its own requests only:
//
// - Work belongs to a flow: an adapter's name, for an API key. Flows take turns by the time that
//   theirs has taken (FairQueue), one flow never has all threads, and what waits takes places that
//   flows share (FairPlaces).
// - Work may hang where it touches files: a mount that has gone away. A thread that has been at one
//   piece for `stuck_after` is replaced by another, and of one place, a folder below the adapter
//   directory, only a few may be stuck; what else needs it waits.
// - Work has a deadline, whatever it waits for or hangs in: its client is then told.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/schedule/fair_places.h"
#include "engine/schedule/fair_queue.h"

namespace lorax {

// Who tells the client: the work, or its deadline.
class Claim {
 public:
  // True for the first who asks.
  bool take() { return !taken_.exchange(true); }

 private:
  std::atomic<bool> taken_{false};
};

class WorkerPool {
 public:
  using Clock = std::chrono::steady_clock;
  // Is told what work has thrown, on the work's thread; must not throw.
  using OnError = std::function<void(const std::exception_ptr& error)>;

  struct Options {
    int threads = 2;            // that one flow may have, at least 1; there is one more for others
    int64_t most_pending = 64;  // pieces that wait or are being done, at least 1
    std::chrono::milliseconds stuck_after{1000};
    int64_t most_stuck_in_place = 2;
    int64_t most_stuck = 64;  // beyond it nothing that has a place is begun
  };

  struct Work {
    std::string tenant = {};  // the API key's name
    std::string flow = {};
    std::string place = {};  // whose files it touches; "": none, it only computes
    // Must not count on being the only one that answers: what it does for the client comes after
    // claim.take() has said true.
    std::function<void(Claim& claim)> run = {};
    Clock::time_point deadline = Clock::time_point::max();
    // Called, having taken the claim, where the deadline has passed before run() took it; run() may
    // be under way still. `begun`: it has been begun, or waits for a place where others are stuck.
    // Must not throw or take long.
    std::function<void(bool begun)> late = {};
    bool always = false;  // never refused
  };

  WorkerPool(const Options& options, OnError on_error);
  // Waits for what is being done; what waits is destroyed without a call.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return options_.threads; }

  // Queues the work. From any thread; never blocks. If too much is pending the work is destroyed,
  // and the answer says when to come again. Throws std::bad_alloc, with the work destroyed.
  FairPlaces::Answer try_run(Work work);

  // Whether within that time all is done, and nothing is held of it any more.
  bool wait_until_idle(std::chrono::milliseconds wait);

  // Begins nothing more, and waits that long for what is being done. False if some of it has not
  // ended: threads that hang in the file system.
  bool stop(std::chrono::milliseconds wait);

 private:
  struct Piece {
    Work work;
    std::shared_ptr<Claim> claim = std::make_shared<Claim>();
    std::string places_flow;
    FairQueue::Client* client = nullptr;  // known as long as this waits or runs
    Clock::time_point begun;              // of one that runs
    bool stuck = false;
    bool told = false;  // late() has been called
  };
  using Pieces = std::map<uint64_t, Piece>;

  // Those whose time is up: what they are to be told, and what of them is to be destroyed.
  struct Late {
    std::vector<std::function<void()>> calls;
    Pieces dropped;
  };

  using Threads = std::list<std::thread>;

  static void tell(Late& late) noexcept;
  void serve(Threads::iterator self);
  void watch();
  // All below: with the lock.
  // Throws Error where the system gives none.
  void start_thread();
  bool may_begin(const Piece& piece) const;
  // Whether a flow may begin one more now.
  bool has_thread(const FairQueue::Client& client) const;
  static std::string places_flow_of(const Work& work) { return work.tenant + '\n' + work.flow; }
  // A flow is ready while its place answers.
  void refresh_readiness();
  void refresh_readiness(FairQueue::Client& client);
  FairQueue::Client* next_client() const;
  // Takes the piece whose turn it is; end() if there is none.
  Pieces::iterator begin_next();
  // The piece, to be destroyed without the lock.
  Pieces::node_type finish(Pieces::iterator piece);
  Pieces::node_type forget(Pieces::iterator piece);
  void end_threads();
  // Threads that are stuck from now on.
  void note_stuck(Clock::time_point now);
  // Takes the claims of those whose time is up.
  void collect_late(Clock::time_point now, Late& late);

  const Options options_;
  const OnError on_error_;
  const std::chrono::milliseconds tick_;

  mutable std::mutex mutex_;
  std::condition_variable work_;     // there is something to begin, or the end
  std::condition_variable watched_;  // there is something to watch, or the end
  std::condition_variable ended_;    // a thread has ended
  std::condition_variable idle_;     // unfinished_ is 0
  // Guarded by mutex_:
  bool stopping_ = false;
  uint64_t last_id_ = 0;
  int64_t unfinished_ = 0;  // pieces that are held
  Pieces waiting_;
  Pieces running_;
  FairQueue queue_;
  FairPlaces places_;
  std::map<std::string, int64_t> stuck_;  // threads, by place
  int64_t all_stuck_ = 0;
  int64_t serving_ = 0;  // threads that are not stuck
  Threads threads_;
  Threads ended_threads_;  // to be joined
  std::thread watcher_;
};

}  // namespace lorax

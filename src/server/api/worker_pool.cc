#include "server/api/worker_pool.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/threads.h"

namespace lorax {

WorkerPool::WorkerPool(const Options& options, OnError on_error)
    : options_(options),
      on_error_(std::move(on_error)),
      tick_(std::max(options.stuck_after / 8, std::chrono::milliseconds(1))),
      places_({.places = options.most_pending}) {
  LORAX_CHECK(options.threads >= 1 && options.most_pending >= 1);
  try {
    const std::lock_guard lock(mutex_);
    for (int i = 0; i <= options.threads; ++i) start_thread();
    watcher_ = lorax::start_thread("requests", [this] { watch(); });
  } catch (...) {
    end_threads();
    throw;
  }
}

WorkerPool::~WorkerPool() { end_threads(); }

void WorkerPool::end_threads() {
  stop(std::chrono::milliseconds(0));
  if (watcher_.joinable()) watcher_.join();
  // Each moves itself to those that have ended.
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return threads_.empty(); });
  for (std::thread& thread : ended_threads_) thread.join();
}

FairPlaces::Answer WorkerPool::try_run(Work work) {
  // What throws for want of memory does so before the books have changed.
  Pieces made;
  Piece& piece = made[0];
  piece.places_flow = places_flow_of(work);
  piece.work = std::move(work);
  const std::lock_guard lock(mutex_);
  if (stopping_) return {.taken = false, .retry_after = std::chrono::seconds(1)};
  const FairPlaces::Answer answer = piece.work.always
                                        ? FairPlaces::Answer{.taken = true}
                                        : places_.take(piece.places_flow, Clock::now());
  if (!answer.taken) return answer;
  const uint64_t id = ++last_id_;
  try {
    piece.client = &queue_.client(piece.work.flow, piece.work.tenant);
    queue_.push(*piece.client, id);
  } catch (...) {
    if (piece.client != nullptr) queue_.rest(*piece.client);
    if (!piece.work.always) places_.give_back(piece.places_flow, Clock::now());
    throw;
  }
  FairQueue::Client& client = *piece.client;
  const bool watches_nothing = waiting_.empty() && running_.empty();
  Pieces::node_type node = made.extract(made.begin());
  node.key() = id;
  waiting_.insert(std::move(node));
  ++unfinished_;
  refresh_readiness(client);
  work_.notify_one();
  if (watches_nothing) watched_.notify_one();
  return answer;
}

bool WorkerPool::wait_until_idle(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, wait, [this] { return unfinished_ == 0; });
}

bool WorkerPool::stop(std::chrono::milliseconds wait) {
  Pieces dropped;
  std::unique_lock lock(mutex_);
  stopping_ = true;
  std::swap(dropped, waiting_);  // the queue is not looked at any more
  work_.notify_all();
  watched_.notify_all();
  const bool ended = ended_.wait_for(lock, wait, [this] { return threads_.empty(); });
  unfinished_ -= std::ssize(dropped);
  idle_.notify_all();
  lock.unlock();  // before what is dropped goes
  return ended;
}

void WorkerPool::start_thread() {
  for (std::thread& thread : ended_threads_) thread.join();  // they have let go of the lock
  ended_threads_.clear();
  Threads made(1);
  const auto self = made.begin();
  *self = lorax::start_thread("requests", [this, self] { serve(self); });  // it waits for the lock
  threads_.splice(threads_.end(), made);
  ++serving_;
}

// --- A worker's thread -----------------------------------------------------------------------

void WorkerPool::serve(Threads::iterator self) {
  std::unique_lock lock(mutex_);
  // One whose place has been taken by another ends.
  while (!stopping_ && serving_ <= options_.threads + 1) {
    const auto piece = begin_next();
    if (piece == running_.end()) {
      work_.wait(lock);
      continue;
    }
    lock.unlock();
    try {
      piece->second.work.run(*piece->second.claim);
    } catch (...) {
      try {
        on_error_(std::current_exception());
      } catch (...) {  // out of memory: the writer that goes tells the client
      }
    }
    // What it holds goes without the lock: it may be much, or call back.
    piece->second.work.run = nullptr;
    lock.lock();
    Pieces::node_type done = finish(piece);
    lock.unlock();
    done = Pieces::node_type();
    lock.lock();
    if (--unfinished_ == 0) idle_.notify_all();
  }
  --serving_;
  ended_threads_.splice(ended_threads_.end(), threads_, self);
  ended_.notify_all();
  work_.notify_one();  // its last piece may have let others begin
}

bool WorkerPool::may_begin(const Piece& piece) const {
  const std::string& place = piece.work.place;
  if (place.empty()) return true;
  const auto stuck = stuck_.find(place);
  return all_stuck_ < options_.most_stuck &&
         (stuck == stuck_.end() || stuck->second < options_.most_stuck_in_place);
}

// Those of its pieces that are stuck do not count: their threads have been replaced.
bool WorkerPool::has_thread(const FairQueue::Client& client) const {
  int64_t begun = client.running();
  if (begun < options_.threads) return true;
  for (const auto& [id, piece] : running_) {
    if (piece.stuck && piece.client == &client) --begun;
  }
  return begun < options_.threads;
}

void WorkerPool::refresh_readiness(FairQueue::Client& client) {
  if (stopping_ || client.waiting().empty()) return;
  queue_.set_ready(client, may_begin(waiting_.at(*client.waiting().begin())));
}

void WorkerPool::refresh_readiness() {
  // One that becomes ready may move, which leaves the others where they are.
  for (auto next = queue_.waiting().begin(); next != queue_.waiting().end();) {
    FairQueue::Client* const client = *next++;
    refresh_readiness(*client);
  }
}

// Few are passed over: a flow that has its threads keeps its turn, and its counter.
FairQueue::Client* WorkerPool::next_client() const {
  for (FairQueue::Client* client : queue_.waiting()) {
    if (client->is_ready() && has_thread(*client)) return client;
  }
  return nullptr;
}

WorkerPool::Pieces::iterator WorkerPool::begin_next() {
  FairQueue::Client* client = next_client();
  if (client == nullptr) return running_.end();
  const uint64_t id = *client->waiting().begin();
  queue_.remove(*client, id);
  queue_.start(*client);
  const auto piece = running_.insert(waiting_.extract(id)).position;
  piece->second.begun = Clock::now();
  refresh_readiness(*client);
  if (next_client() != nullptr) work_.notify_one();
  return piece;
}

WorkerPool::Pieces::node_type WorkerPool::finish(Pieces::iterator piece) {
  const Clock::time_point now = Clock::now();
  FairQueue::Client& client = *piece->second.client;
  queue_.charge(client, (now - piece->second.begun).count());
  queue_.stop(client);
  const bool was_stuck = piece->second.stuck;
  if (was_stuck) {
    const auto stuck = stuck_.find(piece->second.work.place);
    if (--stuck->second == 0) stuck_.erase(stuck);
    --all_stuck_;
    ++serving_;
  }
  if (!piece->second.work.always) places_.give_back(piece->second.places_flow, now);
  Pieces::node_type done = running_.extract(piece);
  if (was_stuck) refresh_readiness();
  queue_.rest(client);
  return done;
}

// --- The watcher's thread --------------------------------------------------------------------

void WorkerPool::watch() {
  std::unique_lock lock(mutex_);
  while (true) {
    // At the end only until nothing runs: those who wait for it are told of their deadline still.
    if (stopping_ && running_.empty()) return;
    if (waiting_.empty() && running_.empty()) {
      watched_.wait(lock);
    } else {
      watched_.wait_for(lock, tick_);
    }
    const Clock::time_point now = Clock::now();
    Late late;
    try {
      note_stuck(now);
      collect_late(now, late);
    } catch (const std::exception&) {  // out of memory, or of threads: the next look goes on
    }
    if (late.calls.empty() && late.dropped.empty()) continue;
    lock.unlock();
    tell(late);
    lock.lock();
  }
}

void WorkerPool::tell(Late& late) noexcept {
  for (const std::function<void()>& call : late.calls) {
    try {
      call();
    } catch (...) {  // out of memory: the writer that goes tells the client
    }
  }
  late.calls.clear();
  late.dropped.clear();
}

void WorkerPool::note_stuck(Clock::time_point now) {
  bool any = false;
  for (auto& [id, piece] : running_) {
    // One that only computes has the processor that another thread would need.
    if (piece.stuck || piece.work.place.empty()) continue;
    if (now - piece.begun < options_.stuck_after) continue;
    ++stuck_[piece.work.place];
    any = piece.stuck = true;
    ++all_stuck_;
    --serving_;
  }
  if (any) refresh_readiness();
  // One for each that is stuck, now or as soon as the system gives it.
  while (!stopping_ && serving_ <= options_.threads) start_thread();
}

void WorkerPool::collect_late(Clock::time_point now, Late& late) {
  const auto take = [&](Piece& piece, bool begun) {
    piece.told = true;
    if (piece.claim->take() && piece.work.late) {
      late.calls.emplace_back([call = std::move(piece.work.late), begun] { call(begun); });
    }
  };
  for (auto& [id, piece] : running_) {
    if (!piece.told && now >= piece.work.deadline) take(piece, true);
  }
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    const auto piece = next++;
    if (now < piece->second.work.deadline) continue;
    take(piece->second, !may_begin(piece->second));
    late.dropped.insert(forget(piece));
  }
}

WorkerPool::Pieces::node_type WorkerPool::forget(Pieces::iterator piece) {
  FairQueue::Client& client = *piece->second.client;
  queue_.remove(client, piece->first);
  if (!piece->second.work.always) places_.give_back(piece->second.places_flow, Clock::now());
  Pieces::node_type forgotten = waiting_.extract(piece);
  if (--unfinished_ == 0) idle_.notify_all();
  refresh_readiness(client);
  queue_.rest(client);
  work_.notify_one();
  return forgotten;
}

}  // namespace lorax

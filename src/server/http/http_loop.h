// One thread of the transport: what runs on it runs one after the other, and can be woken by others
// without memory. So a response that is there goes out, or its connection is closed, however little
// memory there is; both give some back.
//
// Asio's own way, post(), takes memory for each call; and a strand that finds none as it is woken
// (Boost 1.81) never runs again.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

namespace lorax {

// Who can be woken. Is in the list of one loop at most.
class LoopMember {
 public:
  LoopMember() = default;
  virtual ~LoopMember() = default;
  LoopMember(const LoopMember&) = delete;
  LoopMember& operator=(const LoopMember&) = delete;

 private:
  friend class HttpLoop;
  // On the loop's thread.
  virtual void wake_up() noexcept = 0;

  std::shared_ptr<LoopMember> next_;  // guarded by the loop's mutex
};

class HttpLoop {
 public:
  // `stumbled` is called where there is no memory to wait for the next call of wake(): mend() is to
  // be called until it returns true. Throws Error if the system is out of file descriptors.
  explicit HttpLoop(std::function<void()> stumbled);
  ~HttpLoop();
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;

  boost::asio::io_context& io() { return io_; }

  // From any thread: calls member->wake_up() soon. Precondition: that has been called since the
  // last time, or nothing was.
  void wake(std::shared_ptr<LoopMember> member) noexcept;
  bool mend() noexcept;
  // Of a completion.
  void handler_lost() noexcept;

 private:
  void wait_for_wake();
  void on_wake(const boost::system::error_code& error);

  // What handlers use that go with io_ comes before it.
  const std::function<void()> stumbled_;
  std::atomic<bool> waits_not_{false};
  std::mutex mutex_;
  std::shared_ptr<LoopMember> first_;  // guarded by mutex_, as all below
  LoopMember* last_ = nullptr;
  int event_fd_ = -1;  // -1: the end

  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  boost::asio::posix::stream_descriptor event_;
};

}  // namespace lorax

#include "server/http/http_loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/out_of_memory.h"
#include "server/http/completion.h"

namespace lorax {
namespace {

int make_event_fd() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) fail("cannot wait for connections: {}", std::generic_category().message(errno));
  return fd;
}

}  // namespace

HttpLoop::HttpLoop(std::function<void()> stumbled)
    : stumbled_(std::move(stumbled)),
      work_(boost::asio::make_work_guard(io_)),
      event_(io_, make_event_fd()) {
  event_fd_ = event_.native_handle();
  wait_for_wake();
}

HttpLoop::~HttpLoop() {
  {
    const std::lock_guard lock(mutex_);
    event_fd_ = -1;
  }
  // One by one: a chain of many would take as much stack.
  while (first_ != nullptr) first_ = std::move(first_->next_);
}

void HttpLoop::wake(std::shared_ptr<LoopMember> member) noexcept {
  const std::lock_guard lock(mutex_);
  if (event_fd_ < 0) return;
  LoopMember* const added = member.get();
  (last_ == nullptr ? first_ : last_->next_) = std::move(member);
  last_ = added;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(event_fd_, &one, sizeof(one));
}

void HttpLoop::wait_for_wake() {
  event_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                    Completion(this, [](HttpLoop& self, const boost::system::error_code& error) {
                      self.on_wake(error);
                    }));
}

void HttpLoop::on_wake(const boost::system::error_code& error) {
  if (error) return;
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(event_.native_handle(), &count, sizeof(count));
  // First, while Asio has the memory of the wait that has ended.
  try {
    wait_for_wake();
  } catch (...) {
    handler_lost();
  }
  std::shared_ptr<LoopMember> member;
  {
    const std::lock_guard lock(mutex_);
    member = std::exchange(first_, nullptr);
    last_ = nullptr;
  }
  while (member != nullptr) {
    // It may be woken again while it runs.
    std::shared_ptr<LoopMember> next = std::move(member->next_);
    member->wake_up();
    member = std::move(next);
  }
}

void HttpLoop::handler_lost() noexcept {
  waits_not_ = true;
  stumbled_();
}

bool HttpLoop::mend() noexcept {
  if (!waits_not_.exchange(false)) return true;
  try {
    wait_for_wake();
    return true;
  } catch (...) {
    release_memory_reserve();
    waits_not_ = true;
    return false;
  }
}

}  // namespace lorax

#include "cli/key_file_watcher.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include <ctime>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/threads.h"

namespace lorax::cli {
namespace {

// How often the file is looked at.
constexpr timespec kLook = {.tv_sec = 0, .tv_nsec = 250'000'000};

sigset_t usr1() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGUSR1);
  return signals;
}

// Differs whenever the file may; "" if there is none.
std::string state_of(const std::filesystem::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) return "";
  return fmt::format("{} {} {} {}.{} {}.{}", status.st_dev, status.st_ino, status.st_size,
                     status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec,
                     status.st_ctim.tv_nsec);
}

}  // namespace

void KeyFileWatcher::hold_signal() {
  const sigset_t signals = usr1();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

KeyFileWatcher::KeyFileWatcher(ApiKeys& keys, std::filesystem::path file, Report report)
    : keys_(keys), file_(std::move(file)), report_(std::move(report)), seen_(state_of(file_)) {
  keys_.load(file_);
  try {
    thread_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
  } catch (const std::system_error& error) {
    fail_to_start_thread("the API keys' file", error);
  }
}

void KeyFileWatcher::run(const std::stop_token& stop) {
  const sigset_t signals = usr1();
  while (!stop.stop_requested()) {
    is_asked_ |= sigtimedwait(&signals, nullptr, &kLook) == SIGUSR1;
    try {
      if (is_asked_ || state_of(file_) != seen_) read_again();
      is_asked_ = false;
    } catch (const std::exception&) {  // out of memory: at the next look
    }
  }
}

void KeyFileWatcher::read_again() {
  seen_ = state_of(file_);
  try {
    const size_t count = keys_.load(file_);
    report_(fmt::format("{} API keys, with those of {}", count, file_.string()));
  } catch (const std::exception& error) {
    report_(fmt::format("--api-key-file is not taken, and the keys stay as they were: {}",
                        error.what()));
  }
}

}  // namespace lorax::cli

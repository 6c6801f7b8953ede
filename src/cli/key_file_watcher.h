// --api-key-file, read at the start, at SIGUSR1, and whenever it has changed.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "server/api/api_keys.h"

namespace lorax::cli {

class KeyFileWatcher {
 public:
  // Told of each reading in one line, from the watcher's thread.
  using Report = std::function<void(const std::string& line)>;

  // SIGUSR1 waits for a watcher from now on, instead of ending the process. To be called before
  // there are other threads, as those inherit it.
  static void hold_signal();

  // Reads the file, and throws Error if it is not right. Later a file that is not right is reported
  // and changes nothing. `keys` must outlive this.
  KeyFileWatcher(ApiKeys& keys, std::filesystem::path file, Report report);

 private:
  void run(const std::stop_token& stop);
  void read_again();

  ApiKeys& keys_;
  const std::filesystem::path file_;
  const Report report_;
  std::string seen_;       // which state of the file was read last
  bool is_asked_ = false;  // to read it whatever its state
  std::jthread thread_;
};

}  // namespace lorax::cli

// What a server says of itself: lines with a time and a level, as text or JSON. Standard output has
// what was asked for (that it is ready, and a line per request), standard error all else.
//
// No function blocks or throws, whatever the two are connected to (base/log_output.h). What clients
// and files are quoted with is escaped, so that a line stays one and steers no terminal.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "base/log_output.h"
#include "formats/json_writer.h"

namespace lorax {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

// "debug", "info", "warning", "error"
std::string_view name_of(LogLevel level);

// Foreign text as one line of UTF-8 without control characters, cut after about `most_bytes`.
std::string loggable(std::string_view text, size_t most_bytes = 1024);
// The same as one word; "-" for an empty one.
std::string loggable_word(std::string_view text);

// The beginning of a line: "2026-01-31T12:00:00.123Z info ", or {"time":"...","level":"info"
// with the object left open.
std::string text_line_start(LogLevel level, std::chrono::system_clock::time_point time);
JsonWriter json_line_start(LogLevel level, std::chrono::system_clock::time_point time);
// A whole line.
std::string log_line(LogFormat format, LogLevel level, std::string_view message,
                     std::chrono::system_clock::time_point time);

struct LogOptions {
  LogLevel level = LogLevel::kInfo;  // what is less important is left out
  LogFormat format = LogFormat::kText;
  int output = 1;  // file descriptors
  int errors = 2;
  std::function<std::chrono::system_clock::time_point()> now = std::chrono::system_clock::now;
};

class Log {
 public:
  explicit Log(LogOptions options);
  // As close().
  ~Log();

  // Takes no more lines, and gives both outputs a second to take what waits.
  void close() noexcept;

  bool shows(LogLevel level) const { return level >= options_.level; }
  LogFormat format() const { return options_.format; }
  std::chrono::system_clock::time_point now() const { return options_.now(); }

  // To standard error.
  void write(LogLevel level, std::string_view message) noexcept;
  void debug(std::string_view message) noexcept { write(LogLevel::kDebug, message); }
  void info(std::string_view message) noexcept { write(LogLevel::kInfo, message); }
  void warning(std::string_view message) noexcept { write(LogLevel::kWarning, message); }
  void error(std::string_view message) noexcept { write(LogLevel::kError, message); }

  // Warnings that come from many files, as "<file>: <what>": the first of each cause is a warning,
  // others are shown at kDebug. Two have one cause if they differ in the file, in numbers and in
  // what stands between quotation marks only.
  void warn_once(std::string_view message) noexcept;

  // A line that has been made already, without its end, to standard output.
  void print(LogLevel level, std::string line) noexcept;

  // Lines that did not reach their reader.
  uint64_t dropped() const noexcept { return output_.dropped() + errors_.dropped(); }

 private:
  bool is_new_cause(std::string_view message);

  const LogOptions options_;
  std::mutex mutex_;
  std::set<std::string, std::less<>> causes_;  // guarded by mutex_
  LogOutput output_;
  LogOutput errors_;
};

}  // namespace lorax

#include "server/observe/log.h"

#include <fmt/chrono.h>

#include <utility>

#include "base/utf8.h"
#include "formats/printable.h"

namespace lorax {
namespace {

constexpr std::chrono::seconds kLastWords{1};
// Beyond it all further ones are taken for known: there are few in the program, so that more means
// that the text of one differs from file to file.
constexpr size_t kMostCauses = 128;

std::string time_text(std::chrono::system_clock::time_point time) {
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(milliseconds / 1000),
                     milliseconds % 1000);
}

// U+0080 to U+009F, some of which steer terminals.
bool is_c1(std::string_view character) {
  return character.size() == 2 && character[0] == '\xc2' &&
         static_cast<unsigned char>(character[1]) < 0xa0;
}

// U+2028 and U+2029, at which some readers break lines.
bool is_separator(std::string_view character) {
  return character == "\xe2\x80\xa8" || character == "\xe2\x80\xa9";
}

void escape(std::string& out, std::string_view bytes) {
  for (char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
}

// "<file>: <what>" without the file, numbers, and what stands between quotation marks.
std::string cause_of(std::string_view message) {
  const size_t colon = message.find(": ");
  if (colon != std::string_view::npos) message.remove_prefix(colon + 2);
  std::string cause;
  bool quoted = false;
  for (char c : message) {
    if (c == '"') quoted = !quoted;
    if (!quoted && (c < '0' || c > '9')) cause += c;
  }
  return cause;
}

std::string lost_lines(LogFormat format, uint64_t lines,
                       std::chrono::system_clock::time_point time) {
  return log_line(format, LogLevel::kWarning,
                  fmt::format("{} lines of this log are missing here: they were not read in time, "
                              "or could not be written",
                              lines),
                  time);
}

LogOutput::Notice notice_of(const LogOptions& options) {
  return [format = options.format, now = options.now](uint64_t lines) {
    return lost_lines(format, lines, now());
  };
}

}  // namespace

std::string_view name_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      break;
  }
  return "error";
}

std::string loggable(std::string_view text, size_t most_bytes) {
  // Enough of it, before it is looked at as a whole.
  const std::string valid = replace_invalid_utf8(text.substr(0, most_bytes + 4));
  std::string out;
  for (size_t i = 0; i < valid.size();) {
    const std::string_view character =
        std::string_view(valid).substr(i, utf8_length_of_lead(valid[i]));
    if (i + character.size() > most_bytes) return out + "...";
    if (is_control(character[0]) || is_c1(character) || is_separator(character)) {
      escape(out, character);
    } else {
      out += character;
    }
    i += character.size();
  }
  return out;
}

std::string loggable_word(std::string_view text) {
  if (text.empty()) return "-";
  std::string word;
  for (char c : loggable(text)) c == ' ' ? word += "\\x20" : word += c;
  return word;
}

std::string text_line_start(LogLevel level, std::chrono::system_clock::time_point time) {
  return fmt::format("{} {} ", time_text(time), name_of(level));
}

JsonWriter json_line_start(LogLevel level, std::chrono::system_clock::time_point time) {
  JsonWriter json;
  json.begin_object();
  json.field("time", time_text(time));
  json.field("level", name_of(level));
  return json;
}

std::string log_line(LogFormat format, LogLevel level, std::string_view message,
                     std::chrono::system_clock::time_point time) {
  constexpr size_t kMostBytes = 4096;
  if (format == LogFormat::kText) {
    return text_line_start(level, time) + loggable(message, kMostBytes);
  }
  JsonWriter json = json_line_start(level, time);
  json.field("message", loggable(message, kMostBytes));
  json.end_object();
  return json.take();
}

Log::Log(LogOptions options)
    : options_(std::move(options)),
      output_(options_.output, notice_of(options_)),
      errors_(options_.errors, notice_of(options_)) {}

Log::~Log() { close(); }

void Log::close() noexcept {
  const auto deadline = std::chrono::steady_clock::now() + kLastWords;
  output_.close(deadline);
  errors_.close(deadline);
}

void Log::write(LogLevel level, std::string_view message) noexcept {
  if (!shows(level)) return;
  try {
    errors_.write(log_line(options_.format, level, message, now()));
  } catch (...) {  // out of memory: a line costs nobody anything
  }
}

void Log::warn_once(std::string_view message) noexcept {
  try {
    if (is_new_cause(message)) {
      warning(fmt::format("{} (others like it: --log-level debug)", message));
    } else {
      debug(message);
    }
  } catch (...) {
  }
}

bool Log::is_new_cause(std::string_view message) {
  const std::lock_guard lock(mutex_);
  return causes_.size() < kMostCauses && causes_.insert(cause_of(message)).second;
}

void Log::print(LogLevel level, std::string line) noexcept {
  if (shows(level)) output_.write(std::move(line));
}

}  // namespace lorax

#include "server/observe/access_log.h"

#include <iterator>
#include <optional>

#include <fmt/format.h>

namespace lorax {
namespace {

using Time = std::optional<std::chrono::nanoseconds>;

double milliseconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

// What is wrong with it; "" if nothing is.
std::string error_of(const AccessRecord& record) {
  if (!record.note.error.empty()) return record.note.error;
  return record.complete ? "" : "disconnected";
}

// As error="...": with no quotation mark of its own.
std::string quoted(const std::string& text) {
  std::string out = loggable(text, 256);
  for (char& c : out) {
    if (c == '"') c = '\'';
  }
  return out;
}

std::string text_line(const AccessRecord& record, std::chrono::system_clock::time_point now) {
  const RequestNote& note = record.note;
  std::string line = text_line_start(level_of(record), now);
  const auto add = [&line]<typename... Args>(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(line), format, std::forward<Args>(args)...);
  };
  const auto add_time = [&add](std::string_view name, const Time& time) {
    if (time) add(" {}={:.1f} ms", name, milliseconds(*time));
  };
  add("{} {} {} {:.1f} ms {} bytes{} {} {}", record.status, loggable_word(record.method),
      loggable_word(record.path), milliseconds(record.duration), record.bytes,
      record.complete ? "" : " (cut)", loggable_word(record.client),
      loggable_word(record.request_id));
  if (note.generates) {
    add(" adapter={} prompt={} generated={}", loggable_word(note.adapter), note.prompt_tokens,
        note.generated_tokens);
    add_time("queue", note.queue);
    add_time("first", note.first_token);
    add(" {}", note.streamed ? "streamed" : "whole");
  }
  if (!note.finish.empty()) add(" finish={}", loggable_word(note.finish));
  if (const std::string error = error_of(record); !error.empty()) {
    add(" error=\"{}\"", quoted(error));
  }
  return line;
}

void add_text(JsonWriter& json, std::string_view name, const std::string& text) {
  json.key(name);
  text.empty() ? json.null() : json.value(loggable(text));
}

void add_time(JsonWriter& json, std::string_view name, const Time& time) {
  json.key(name);
  time ? json.value(milliseconds(*time)) : json.null();
}

std::string json_line(const AccessRecord& record, std::chrono::system_clock::time_point now) {
  const RequestNote& note = record.note;
  JsonWriter json = json_line_start(level_of(record), now);
  json.field("message", "request");
  json.field("status", record.status);
  json.field("method", loggable(record.method));
  json.field("path", loggable(record.path));
  json.field("milliseconds", milliseconds(record.duration));
  json.field("bytes", record.bytes);
  json.field("complete", record.complete);
  json.field("client", record.client);
  json.field("request_id", loggable(record.request_id));
  if (note.generates) {
    add_text(json, "adapter", note.adapter);
    json.field("prompt_tokens", note.prompt_tokens);
    json.field("generated_tokens", note.generated_tokens);
    add_time(json, "queue_milliseconds", note.queue);
    add_time(json, "first_token_milliseconds", note.first_token);
    json.field("streamed", note.streamed);
    add_text(json, "finish_reason", note.finish);
  }
  add_text(json, "error", error_of(record));
  json.end_object();
  return json.take();
}

}  // namespace

LogLevel level_of(const AccessRecord& record) {
  return record.status >= 500 || record.note.failed ? LogLevel::kWarning : LogLevel::kInfo;
}

std::string access_line(const AccessRecord& record, LogFormat format,
                        std::chrono::system_clock::time_point now) {
  return format == LogFormat::kText ? text_line(record, now) : json_line(record, now);
}

}  // namespace lorax

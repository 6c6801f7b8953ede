#include "server/http/http_wire.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <iterator>
#include <random>

#include <fmt/format.h>
#include <boost/algorithm/string/predicate.hpp>
#include <boost/beast/http/status.hpp>

#include "base/mix64.h"
#include "formats/printable.h"

namespace lorax {
namespace {

// RFC 9110, 5.6.2.
bool is_token_character(char c) {
  if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}

// Headers that the transport sets itself, and those that change how a message is framed.
bool is_transports_own(std::string_view name) {
  constexpr std::string_view kOwn[] = {"connection",   "content-length", "content-type",
                                       "date",         "keep-alive",     "transfer-encoding",
                                       "x-request-id", "trailer",        "upgrade"};
  return std::ranges::any_of(kOwn, [&](std::string_view own) { return boost::iequals(own, name); });
}

void append_value(std::string& out, std::string_view value) {
  for (char c : value) out += is_control(c) && c != '\t' ? ' ' : c;
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
  out += name;
  out += ": ";
  append_value(out, value);
  out += "\r\n";
}

// The time as RFC 9110 wants it, made once a second.
std::string_view http_date() {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  thread_local std::time_t made = -1;
  thread_local std::string date;
  const std::time_t now = std::time(nullptr);
  if (now != made) {
    std::tm utc{};
    gmtime_r(&now, &utc);
    date =
        fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[utc.tm_wday], utc.tm_mday,
                    kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
    made = now;
  }
  return date;
}

}  // namespace

void append_response_head(std::string& out, const ResponseHead& head) {
  const auto reason = boost::beast::http::obsolete_reason(
      boost::beast::http::int_to_status(static_cast<unsigned>(head.status)));
  fmt::format_to(std::back_inserter(out), "HTTP/1.1 {} {}\r\n", head.status,
                 std::string_view(reason.data(), reason.size()));
  append_header(out, "date", http_date());
  if (!head.content_type.empty()) append_header(out, "content-type", head.content_type);
  if (head.body_length) {
    fmt::format_to(std::back_inserter(out), "content-length: {}\r\n", *head.body_length);
  }
  if (head.chunked) out += "transfer-encoding: chunked\r\n";
  if (head.close) {
    out += "connection: close\r\n";
  } else if (head.keep_alive_10) {
    out += "connection: keep-alive\r\n";
  }
  if (!head.request_id.empty()) append_header(out, "x-request-id", head.request_id);
  if (head.headers != nullptr) {
    for (const auto& [name, value] : *head.headers) {
      if (name.empty() || !std::ranges::all_of(name, is_token_character)) continue;
      if (!is_transports_own(name)) append_header(out, name, value);
    }
  }
  out += "\r\n";
}

void append_chunk(std::string& out, std::string_view bytes) {
  fmt::format_to(std::back_inserter(out), "{:x}\r\n", bytes.size());
  out += bytes;
  out += "\r\n";
}

bool is_harmless_request_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         std::ranges::all_of(id, [](char c) { return c > ' ' && c <= '~'; });
}

std::string make_request_id() {
  static const uint64_t seed = (uint64_t{std::random_device{}()} << 32) | std::random_device{}();
  static std::atomic<uint64_t> count{0};
  return fmt::format("{:016x}", mix64(seed + count.fetch_add(1, std::memory_order_relaxed)));
}

}  // namespace lorax

#include "server/access_log.h"

#include <fmt/chrono.h>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "formats/printable.h"
#include "text/utf8.h"

namespace lorax {
namespace {

namespace json = boost::json;

std::string time_of(std::chrono::system_clock::time_point now) {
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count();
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(milliseconds / 1000),
                     milliseconds % 1000);
}

// As one word of a line.
std::string word(const std::string& text) {
  return text.empty() ? "-" : printable(replace_invalid_utf8(text));
}

}  // namespace

std::string access_line(const AccessRecord& record, LogFormat format,
                        std::chrono::system_clock::time_point now) {
  const double milliseconds = std::chrono::duration<double, std::milli>(record.duration).count();
  if (format == LogFormat::kText) {
    return fmt::format("{} {} {} {} {:.1f} ms {} bytes{} {} {}", time_of(now), record.status,
                       word(record.method), word(record.path), milliseconds, record.bytes,
                       record.complete ? "" : " (cut)", word(record.client),
                       word(record.request_id));
  }
  return json::serialize(json::object{{"time", time_of(now)},
                                      {"status", record.status},
                                      {"method", replace_invalid_utf8(record.method)},
                                      {"path", replace_invalid_utf8(record.path)},
                                      {"milliseconds", milliseconds},
                                      {"bytes", record.bytes},
                                      {"complete", record.complete},
                                      {"client", record.client},
                                      {"request_id", replace_invalid_utf8(record.request_id)}});
}

}  // namespace lorax

#include "server/http/sse.h"

#include <algorithm>

#include "base/utf8.h"

namespace lorax {
namespace {

constexpr std::string_view kField = "data: ";

}  // namespace

std::string sse_event(std::string_view data) {
  std::string valid;
  if (!is_valid_utf8(data)) {
    valid = replace_invalid_utf8(data);
    data = valid;
  }
  std::string event;
  event.reserve(kField.size() + data.size() + 2);
  event += kField;
  for (size_t i = 0; i < data.size(); ++i) {
    if (data[i] != '\n' && data[i] != '\r') {
      event += data[i];
      continue;
    }
    if (data.substr(i).starts_with("\r\n")) ++i;
    event += '\n';
    event += kField;
  }
  event += "\n\n";
  return event;
}

void begin_event_stream(ResponseWriter& writer,
                        std::vector<std::pair<std::string, std::string>> headers) {
  headers.emplace_back("cache-control", "no-cache");
  headers.emplace_back("x-accel-buffering", "no");
  writer.begin(200, std::move(headers), "text/event-stream");
}

}  // namespace lorax

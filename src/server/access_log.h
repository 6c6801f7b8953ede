// The lines of the access log.
#pragma once

#include <chrono>
#include <string>

#include "server/http_server.h"

namespace lorax {

enum class LogFormat { kText, kJson };

// One line without its end, for a request that ended at `now`:
//   2026-01-31T12:00:00.123Z 200 POST /generate 15.2 ms 1034 bytes 127.0.0.1 7f3a...
//   {"time":"...","status":200,"method":"POST","path":"/generate","milliseconds":15.2,...}
// What clients send is escaped, so that a line stays one.
std::string access_line(const AccessRecord& record, LogFormat format,
                        std::chrono::system_clock::time_point now);

}  // namespace lorax

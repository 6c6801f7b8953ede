// The lines of the access log.
#pragma once

#include <chrono>
#include <string>

#include "server/http/http_server.h"
#include "server/observe/log.h"

namespace lorax {

// kWarning for a request that failed by the server's fault, also in the midst of its response.
LogLevel level_of(const AccessRecord& record);

// One line without its end, for a request that ended at `now`:
//   2026-01-31T12:00:00.123Z info 200 POST /generate 15.2 ms 1034 bytes 127.0.0.1 7f3a...
//     adapter=pirate prompt=12 generated=20 queue=0.1 ms first=3.2 ms whole finish=length
//   {"time":"...","level":"info","message":"request","status":200,"method":"POST",...}
// Text leaves out what is not known, JSON has null there. A request that has failed has error="..."
// at its end, whatever status its client had been told before.
std::string access_line(const AccessRecord& record, LogFormat format,
                        std::chrono::system_clock::time_point now);

}  // namespace lorax

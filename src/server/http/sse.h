// Server-sent events (WHATWG HTML, 9.2). While a stream is silent the transport sends comments
// (HttpServerOptions::sse_keep_alive).
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http/http.h"

namespace lorax {

// "data: <data>\n\n". Data of several lines takes one data field each; what is not UTF-8 becomes
// U+FFFD, as a client would drop the stream.
std::string sse_event(std::string_view data);

// Begins a stream: content type, no caching, no buffering by proxies, and the given headers.
void begin_event_stream(ResponseWriter& writer,
                        std::vector<std::pair<std::string, std::string>> headers = {});

}  // namespace lorax

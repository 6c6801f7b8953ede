// The bytes of a response (RFC 9112). What handlers give can never split it: names that are no
// tokens and headers that the transport owns are left out, control characters in values become
// spaces (RFC 9110, 5.5).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lorax {

struct ResponseHead {
  int status = 200;
  const std::vector<std::pair<std::string, std::string>>* headers = nullptr;
  std::string_view content_type;        // empty: none
  std::string_view request_id;          // empty: none
  std::optional<uint64_t> body_length;  // Content-Length
  bool chunked = false;                 // Transfer-Encoding
  bool close = false;                   // Connection
  bool keep_alive_10 = false;           // keeps a connection of HTTP/1.0, which must be told
};

// Appends everything up to the empty line.
void append_response_head(std::string& out, const ResponseHead& head);

// Appends one chunk. Precondition: there are bytes, as an empty chunk ends the body.
void append_chunk(std::string& out, std::string_view bytes);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

// Whether a status has neither body nor Content-Length.
constexpr bool has_no_body(int status) { return status < 200 || status == 204 || status == 304; }

// A request id that may be repeated in headers and logs: 1 to 128 visible ASCII characters.
bool is_harmless_request_id(std::string_view id);
// 16 hexadecimal digits, different at each call.
std::string make_request_id();

}  // namespace lorax

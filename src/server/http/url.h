// The target of a request, taken apart (RFC 9110, 7.1; RFC 3986).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lorax {

// Bytes for %XX; nullopt where a '%' is not followed by two hexadecimal digits.
std::optional<std::string> percent_decode(std::string_view text);

// "127.0.0.1:80", "[::1]:80": how a URL writes a host and a port, "[fe80::1%25eth0]" for a zone.
std::string authority_of(std::string_view host, uint16_t port);

struct RequestTarget {
  std::string path;   // percent-decoded; "*" for the asterisk form
  std::string query;  // as sent, without '?'
};

// Takes "/path?query", "http://host/path?query" and "*"; nullopt for anything else, for a path
// with a bad escape, and for one that is not UTF-8 or holds control characters.
std::optional<RequestTarget> parse_request_target(std::string_view target);

// The value of the first parameter of this name in a query ("a=1&b=2"), decoded as forms are ('+'
// is a space). A parameter without '=' has an empty value; one with a bad escape is passed over.
std::optional<std::string> query_parameter(std::string_view query, std::string_view name);

}  // namespace lorax

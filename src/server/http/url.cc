#include "server/http/url.h"

#include <algorithm>

#include <boost/algorithm/string/predicate.hpp>

#include "base/utf8.h"
#include "formats/printable.h"

namespace lorax {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// What comes after "scheme://authority", or nullopt if the target has no such beginning.
std::optional<std::string_view> without_authority(std::string_view target) {
  for (std::string_view scheme : {"http://", "https://"}) {
    if (!boost::istarts_with(target, scheme)) continue;
    target.remove_prefix(scheme.size());
    const size_t end = std::min(target.find_first_of("/?"), target.size());
    if (end == 0) return std::nullopt;
    return target.substr(end);
  }
  return std::nullopt;
}

std::optional<std::string> decode_form(std::string_view text) {
  std::string spaced(text);
  std::ranges::replace(spaced, '+', ' ');
  return percent_decode(spaced);
}

}  // namespace

std::optional<std::string> percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (text.size() - i < 3) return std::nullopt;
    const int high = hex_digit(text[i + 1]);
    const int low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

std::string authority_of(std::string_view host, uint16_t port) {
  if (host.find(':') == std::string_view::npos || host.starts_with('[')) {
    return std::string(host) + ":" + std::to_string(port);
  }
  const size_t zone = std::min(host.find('%'), host.size());
  std::string text = "[" + std::string(host.substr(0, zone));
  if (zone < host.size()) text += "%25" + std::string(host.substr(zone + 1));
  return text + "]:" + std::to_string(port);
}

std::optional<RequestTarget> parse_request_target(std::string_view target) {
  if (target == "*") return RequestTarget{"*", ""};
  std::string_view rest = target;
  if (!target.starts_with('/')) {
    const std::optional<std::string_view> relative = without_authority(target);
    if (!relative) return std::nullopt;
    rest = *relative;
  }
  rest = rest.substr(0, rest.find('#'));
  const size_t mark = std::min(rest.find('?'), rest.size());
  std::optional<std::string> path = percent_decode(rest.substr(0, mark));
  if (!path || !is_valid_utf8(*path) || std::ranges::any_of(*path, is_control)) return std::nullopt;
  if (path->empty()) *path = '/';  // "http://host" and "http://host?query"
  return RequestTarget{std::move(*path), std::string(rest.substr(std::min(mark + 1, rest.size())))};
}

std::optional<std::string> query_parameter(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    const size_t equals = std::min(pair.find('='), pair.size());
    if (decode_form(pair.substr(0, equals)) != name) continue;
    std::optional<std::string> value = decode_form(pair.substr(std::min(equals + 1, pair.size())));
    if (value) return value;
  }
  return std::nullopt;
}

}  // namespace lorax

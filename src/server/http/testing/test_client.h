// A client of the transport's tests: one socket on loopback, bytes as they are, nothing hidden.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include <boost/algorithm/string/case_conv.hpp>

namespace lorax {

class TestClient {
 public:
  explicit TestClient(uint16_t port, int receive_buffer = 0) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_GE(fd_, 0);
    if (receive_buffer > 0) {
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    }
    connect(port);
  }
  ~TestClient() { close(); }
  TestClient(TestClient&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), pending_(std::move(other.pending_)) {}
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  // False if the server closed before it took everything.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  void shutdown_send() { ::shutdown(fd_, SHUT_WR); }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  // Closes with a reset.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close();
  }

  // Bytes as they come, at most for `timeout`; "" when the server has closed or nothing came.
  std::string receive_some(int timeout_ms = 5000) {
    if (!pending_.empty()) return std::exchange(pending_, {});
    pollfd entry{fd_, POLLIN, 0};
    if (::poll(&entry, 1, timeout_ms) <= 0) return {};
    char bytes[16384];
    const ssize_t count = ::recv(fd_, bytes, sizeof(bytes), 0);
    closed_ = count <= 0;
    return count > 0 ? std::string(bytes, static_cast<size_t>(count)) : std::string();
  }
  // Everything until the server closes.
  std::string receive_all(int timeout_ms = 5000) {
    std::string all;
    for (std::string some = receive_some(timeout_ms); !some.empty();
         some = receive_some(timeout_ms)) {
      all += some;
    }
    EXPECT_TRUE(closed_) << "the server did not close after: " << all.substr(0, 200);
    return all;
  }
  // Until `end` has come; the rest is kept.
  std::string receive_until(std::string_view end, int timeout_ms = 5000) {
    std::string all;
    while (true) {
      const size_t found = all.find(end);
      if (found != std::string::npos) {
        pending_ = all.substr(found + end.size());
        return all.substr(0, found + end.size());
      }
      std::string some = receive_some(timeout_ms);
      if (some.empty()) return all;
      all += some;
    }
  }

  struct Response {
    int status = 0;
    std::string head;
    std::string body;
    // The value of a header, "" without it.
    std::string header(std::string_view name) const {
      const std::string key = "\r\n" + std::string(name) + ": ";
      const size_t start = boost::to_lower_copy(head).find(key);
      if (start == std::string::npos) return {};
      const size_t value = start + key.size();
      return head.substr(value, head.find("\r\n", value) - value);
    }
  };
  // One response, whole: with Content-Length or in chunks, which are joined.
  Response receive(bool without_body = false, int timeout_ms = 5000) {
    Response response;
    response.head = receive_until("\r\n\r\n", timeout_ms);
    if (response.head.size() > 12) response.status = std::atoi(response.head.c_str() + 9);
    if (without_body || response.status == 204 || response.status / 100 == 1) return response;
    if (response.header("transfer-encoding") == "chunked") {
      while (true) {
        const size_t size = std::strtoul(receive_until("\r\n", timeout_ms).c_str(), nullptr, 16);
        response.body += receive_bytes(size, timeout_ms);
        if (receive_bytes(2, timeout_ms) != "\r\n") return response;
        if (size == 0) return response;
      }
    }
    const std::string length = response.header("content-length");
    response.body =
        length.empty() ? receive_all(timeout_ms) : receive_bytes(std::stoul(length), timeout_ms);
    return response;
  }
  Response request(std::string_view bytes) {
    send(bytes);
    return receive();
  }

 private:
  void connect(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0)
        << strerror(errno);
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  std::string receive_bytes(size_t count, int timeout_ms) {
    std::string all;
    while (all.size() < count) {
      std::string some = receive_some(timeout_ms);
      if (some.empty()) return all;
      all += some;
    }
    pending_ = all.substr(count);
    return all.substr(0, count);
  }

  int fd_ = -1;
  bool closed_ = false;
  std::string pending_;
};

inline std::string get(std::string_view path, std::string_view headers = "") {
  return "GET " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n" + std::string(headers) + "\r\n";
}

inline std::string post(std::string_view path, std::string_view body,
                        std::string_view headers = "") {
  return "POST " + std::string(path) +
         " HTTP/1.1\r\nHost: test\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\nContent-Type: application/json\r\n" + std::string(headers) + "\r\n" +
         std::string(body);
}

}  // namespace lorax

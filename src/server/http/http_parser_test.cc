#include "server/http/http_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace lorax {
namespace {

using State = HttpParser::State;

// Feeds `bytes` in pieces of `piece`, as a connection does; what is not taken comes again.
std::string feed(HttpParser& parser, std::string_view bytes, size_t piece) {
  std::string rest;
  while (!bytes.empty()) {
    rest += bytes.substr(0, piece);
    bytes.remove_prefix(std::min(piece, bytes.size()));
    rest.erase(0, parser.put(rest));
    if (parser.state() == State::kDone || parser.state() == State::kFailed) break;
  }
  return rest + std::string(bytes);
}

TEST(HttpParserTest, AnyPieces) {
  const std::string request =
      "\r\nPOST /a%20b?q HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nx-two:  2 \r\nContent-Length: "
      "3\r\n\r\nabc";
  for (size_t piece = 1; piece <= request.size() + 4; ++piece) {
    HttpParser parser({});
    EXPECT_EQ(feed(parser, request + "NEXT", piece), "NEXT") << piece;
    ASSERT_EQ(parser.state(), State::kDone) << piece;
    EXPECT_TRUE(parser.is_http11());
    EXPECT_TRUE(parser.keep_alive());
    const HttpRequest got = parser.take_request();
    EXPECT_EQ(got.method, "POST");
    EXPECT_EQ(got.path, "/a b");
    EXPECT_EQ(got.query, "q");
    EXPECT_EQ(got.body, "abc");
    EXPECT_EQ(got.header("x-TWO"), "1");
    ASSERT_EQ(got.headers.size(), 4u);
    EXPECT_EQ(got.headers[2].second, "2");
    EXPECT_EQ(got.request_id.size(), 16u);
  }
}

TEST(HttpParserTest, ChunksInAnyPieces) {
  const std::string request =
      "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n"
      "1\r\na\r\n00b;x=\"y\"\r\n0123456789a\r\n0\r\nauthorization: Bearer late\r\n\r\n";
  for (size_t piece = 1; piece <= request.size(); ++piece) {
    HttpParser parser({});
    EXPECT_EQ(feed(parser, request, piece), "") << piece;
    ASSERT_EQ(parser.state(), State::kDone) << piece;
    const HttpRequest got = parser.take_request();
    EXPECT_EQ(got.body, "a0123456789a");
    EXPECT_FALSE(got.header("authorization")) << "a trailer is no header";
  }
}

TEST(HttpParserTest, SaysWhereItIs) {
  HttpParser parser({});
  EXPECT_EQ(parser.state(), State::kStart);
  parser.put("\r\n");
  EXPECT_EQ(parser.state(), State::kStart);
  parser.put("P");
  EXPECT_EQ(parser.state(), State::kHeader);
  parser.put("PUT /x HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
  ASSERT_EQ(parser.state(), State::kBody);
  EXPECT_FALSE(parser.expects_continue()) << "HTTP/1.0 knows no 100 Continue";
  EXPECT_FALSE(parser.keep_alive());
  EXPECT_EQ(parser.request().path, "/x");
  EXPECT_EQ(parser.request().method, "PUT");
}

TEST(HttpParserTest, LimitsHoldInAnyPieces) {
  HttpLimits limits;
  limits.header_bytes = 1024;
  limits.body_bytes = 100;
  const std::string line = "POST / HTTP/1.1\r\n";
  const std::string chunked = line + "Host: h\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::vector<std::pair<std::string, int>> cases = {
      {"GET /" + std::string(2000, 'a'), 414},
      {std::string(2000, 'A'), 414},
      {line + "a: " + std::string(2000, 'a'), 431},
      {line + std::string(2000, 'a'), 431},
      {line + "Host: h\r\nContent-Length: 101\r\n\r\n", 413},
      {chunked + "65\r\n", 413},
      {chunked + "64\r\n" + std::string(100, 'a') + "\r\n1\r\n", 413},
      {chunked + "1;" + std::string(2000, 'a'), 431},
      {chunked + "0\r\n" + std::string(2000, 'a'), 431},
  };
  for (const auto& [bytes, status] : cases) {
    for (size_t piece : {size_t{1}, size_t{7}, size_t{1000}, bytes.size()}) {
      HttpParser parser(limits);
      feed(parser, bytes, piece);
      ASSERT_EQ(parser.state(), State::kFailed) << bytes.substr(0, 80) << " by " << piece;
      EXPECT_EQ(parser.error_status(), status) << bytes.substr(0, 80) << " by " << piece;
      EXPECT_FALSE(parser.error_message().empty());
    }
  }
}

// However short the fields are, and however often a read ends.
TEST(HttpParserTest, FieldsAreCountedInAnyPieces) {
  HttpLimits limits;
  limits.header_fields = 20;
  const auto request = [](int fields) {
    std::string text = "GET / HTTP/1.1\r\nHost: h\r\n";
    for (int i = 1; i < fields; ++i) text += "a:\r\n";
    return text + "\r\n";
  };
  for (size_t piece : {1, 3, 4, 7, 64, 4096, 1 << 20}) {
    HttpParser allowed(limits);
    feed(allowed, request(20), piece);
    EXPECT_EQ(allowed.state(), State::kDone) << piece;
    for (int fields : {21, 22, 23, 1000, 100000}) {
      HttpParser parser(limits);
      feed(parser, request(fields), piece);
      ASSERT_EQ(parser.state(), State::kFailed) << fields << " by " << piece;
      EXPECT_EQ(parser.error_status(), 431);
    }
  }
}

TEST(HttpParserTest, BytesOfManyShortFieldsAreCountedInAnyPieces) {
  HttpLimits limits;
  limits.header_bytes = 1024;
  limits.header_fields = 1 << 20;
  std::string text = "GET / HTTP/1.1\r\nHost: h\r\n";
  while (text.size() < 100'000) text += "a:\r\n";
  for (size_t piece : {1, 3, 4, 7, 64, 1000, 4096, 1 << 20}) {
    HttpParser parser(limits);
    feed(parser, text, piece);
    ASSERT_EQ(parser.state(), State::kFailed) << piece;
    EXPECT_EQ(parser.error_status(), 431) << piece;
  }
  // The last byte that fits, with a body behind it.
  std::string exact = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\nx: ";
  exact += std::string(limits.header_bytes - exact.size() - 4, 'x') + "\r\n\r\n";
  exact += std::string(3000, '\n');
  for (size_t piece : {1, 7, 1000, 1 << 20}) {
    HttpParser parser(limits);
    feed(parser, exact, piece);
    EXPECT_EQ(parser.state(), State::kDone) << piece;
  }
}

TEST(HttpParserTest, WhatFitsExactlyIsTaken) {
  HttpLimits limits;
  limits.body_bytes = 5;
  HttpParser parser(limits);
  parser.put("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345");
  EXPECT_EQ(parser.state(), State::kDone);
  HttpParser chunks(limits);
  chunks.put(
      "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
      "chunked\r\n\r\n2\r\n12\r\n3\r\n345\r\n0\r\n\r\n");
  EXPECT_EQ(chunks.state(), State::kDone);
}

}  // namespace
}  // namespace lorax

#include "server/http/url.h"

#include <gtest/gtest.h>

namespace lorax {
namespace {

TEST(UrlTest, PercentDecode) {
  EXPECT_EQ(percent_decode("a%20b%2fc%2F%41"), "a b/c/A");
  EXPECT_EQ(percent_decode(""), "");
  EXPECT_EQ(percent_decode("+"), "+");
  for (const char* bad : {"%", "%4", "%zz", "a%", "%4g", "%%41"}) {
    EXPECT_EQ(percent_decode(bad), std::nullopt) << bad;
  }
}

TEST(UrlTest, Targets) {
  const auto is = [](std::string_view target, std::string_view path, std::string_view query) {
    const auto found = parse_request_target(target);
    ASSERT_TRUE(found) << target;
    EXPECT_EQ(found->path, path) << target;
    EXPECT_EQ(found->query, query) << target;
  };
  is("/", "/", "");
  is("*", "*", "");
  is("/a/b?x=%20&y#part", "/a/b", "x=%20&y");
  is("/a#?x", "/a", "");
  is("/?", "/", "");
  is("/a%3Fb?c?d", "/a?b", "c?d");
  is("//double", "//double", "");
  is("http://host", "/", "");
  is("HTTP://host:80/a?b", "/a", "b");
  is("https://host?b", "/", "b");
  is("/%C3%A9", "/\u00e9", "");
  for (const char* bad : {"", "a", "host:443", "http://", "http:///a", "ftp://host/", "/%", "/%00",
                          "/%0a", "/%7F", "/%ff", "/%c3", "?a", "**"}) {
    EXPECT_FALSE(parse_request_target(bad)) << bad;
  }
}

TEST(UrlTest, QueryParameters) {
  EXPECT_EQ(query_parameter("a=1&b=2", "b"), "2");
  EXPECT_EQ(query_parameter("a=1&a=2", "a"), "1");
  EXPECT_EQ(query_parameter("a+b=c+d%2B", "a b"), "c d+");
  EXPECT_EQ(query_parameter("flag&b=2", "flag"), "");
  EXPECT_EQ(query_parameter("a==&b", "a"), "=");
  EXPECT_EQ(query_parameter("&&a=%zz&a=2&", "a"), "2");
  EXPECT_EQ(query_parameter("a=1", "b"), std::nullopt);
  EXPECT_EQ(query_parameter("", ""), std::nullopt);
}

TEST(UrlTest, AddressesOfServers) {
  EXPECT_EQ(authority_of("127.0.0.1", 80), "127.0.0.1:80");
  EXPECT_EQ(authority_of("localhost", 3000), "localhost:3000");
  EXPECT_EQ(authority_of("::1", 80), "[::1]:80");
  EXPECT_EQ(authority_of("::", 80), "[::]:80");
  EXPECT_EQ(authority_of("[::1]", 80), "[::1]:80");
  EXPECT_EQ(authority_of("fe80::1%eth0", 80), "[fe80::1%25eth0]:80");
}

}  // namespace
}  // namespace lorax

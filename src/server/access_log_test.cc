#include "server/access_log.h"

#include <gtest/gtest.h>

namespace lorax {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::system_clock::time_point kTime{milliseconds(1'769'860'800'042)};

AccessRecord record() {
  return {.method = "POST",
          .path = "/generate",
          .request_id = "r1",
          .client = "127.0.0.1",
          .status = 200,
          .bytes = 1034,
          .duration = std::chrono::microseconds(15'240)};
}

TEST(AccessLogTest, TextLine) {
  EXPECT_EQ(access_line(record(), LogFormat::kText, kTime),
            "2026-01-31T12:00:00.042Z 200 POST /generate 15.2 ms 1034 bytes 127.0.0.1 r1");
}

TEST(AccessLogTest, WhatClientsSendBreaksNoLine) {
  AccessRecord hostile = record();
  hostile.method = "";
  hostile.path = "/a\nb\x1b[31m\xff";
  hostile.complete = false;
  EXPECT_EQ(access_line(hostile, LogFormat::kText, kTime),
            "2026-01-31T12:00:00.042Z 200 - /a\\x0ab\\x1b[31m\xEF\xBF\xBD 15.2 ms 1034 bytes "
            "(cut) 127.0.0.1 r1");
}

TEST(AccessLogTest, JsonLine) {
  EXPECT_EQ(access_line(record(), LogFormat::kJson, kTime),
            R"({"time":"2026-01-31T12:00:00.042Z","status":200,"method":"POST",)"
            R"("path":"/generate","milliseconds":1.524E1,"bytes":1034,"complete":true,)"
            R"("client":"127.0.0.1","request_id":"r1"})");
}

}  // namespace
}  // namespace lorax

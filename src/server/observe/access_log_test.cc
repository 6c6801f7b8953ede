#include "server/observe/access_log.h"

#include <gtest/gtest.h>

namespace lorax {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::chrono::system_clock::time_point kTime{milliseconds(1'769'860'800'042)};

AccessRecord record() {
  AccessRecord record;
  record.method = "POST";
  record.path = "/generate";
  record.request_id = "r1";
  record.client = "127.0.0.1";
  record.status = 200;
  record.bytes = 1034;
  record.duration = microseconds(15'240);
  return record;
}

AccessRecord generation() {
  AccessRecord made = record();
  made.note.generates = true;
  made.note.streamed = true;
  made.note.adapter = "pirate";
  made.note.prompt_tokens = 12;
  made.note.generated_tokens = 20;
  made.note.queue = microseconds(110);
  made.note.first_token = microseconds(3'220);
  made.note.finish = "length";
  return made;
}

std::string text_of(const AccessRecord& record) {
  return access_line(record, LogFormat::kText, kTime);
}

std::string json_of(const AccessRecord& record) {
  return access_line(record, LogFormat::kJson, kTime);
}

constexpr const char* kText =
    "2026-01-31T12:00:00.042Z info 200 POST /generate 15.2 ms 1034 bytes 127.0.0.1 r1";
constexpr const char* kJson =
    R"({"time":"2026-01-31T12:00:00.042Z","level":"info","message":"request","status":200,)"
    R"("method":"POST","path":"/generate","milliseconds":15.24,"bytes":1034,"complete":true,)"
    R"("client":"127.0.0.1","request_id":"r1",)";

TEST(AccessLogTest, Plain) {
  EXPECT_EQ(text_of(record()), kText);
  EXPECT_EQ(json_of(record()), kJson + std::string(R"("error":null})"));
}

TEST(AccessLogTest, Generation) {
  EXPECT_EQ(text_of(generation()),
            kText + std::string(" adapter=pirate prompt=12 generated=20 queue=0.1 ms first=3.2 ms "
                                "streamed finish=length"));
  EXPECT_EQ(json_of(generation()),
            kJson + std::string(R"("adapter":"pirate","prompt_tokens":12,"generated_tokens":20,)"
                                R"("queue_milliseconds":0.11,"first_token_milliseconds":3.22,)"
                                R"("streamed":true,"finish_reason":"length","error":null})"));
}

TEST(AccessLogTest, WhatClientsSendBreaksNoLine) {
  AccessRecord hostile = generation();
  hostile.method = "";
  hostile.path = "/a\nb\x1b[31m\xff 200";
  hostile.complete = false;
  hostile.note.adapter = "x\r\n2026 y";
  hostile.note.error = "adapter \"x\"\nfailed";
  EXPECT_EQ(text_of(hostile),
            "2026-01-31T12:00:00.042Z info 200 - /a\\x0ab\\x1b[31m\xEF\xBF\xBD\\x20200 15.2 ms "
            "1034 bytes (cut) 127.0.0.1 r1 adapter=x\\x0d\\x0a2026\\x20y prompt=12 generated=20 "
            "queue=0.1 ms first=3.2 ms streamed finish=length error=\"adapter 'x'\\x0afailed\"");
}

// It has been told 200, but is no plain 200.
TEST(AccessLogTest, AStreamThatFailed) {
  AccessRecord failed = generation();
  failed.note.failed = true;
  failed.note.finish = "failed";
  failed.note.error = "generation: NaN";
  EXPECT_EQ(level_of(failed), LogLevel::kWarning);
  const std::string line = text_of(failed);
  EXPECT_NE(line.find(" warning 200 "), std::string::npos) << line;
  EXPECT_TRUE(line.ends_with("streamed finish=failed error=\"generation: NaN\"")) << line;
  EXPECT_NE(json_of(failed).find(R"("error":"generation: NaN")"), std::string::npos);
}

TEST(AccessLogTest, AClientThatLeft) {
  AccessRecord left = generation();
  left.complete = false;
  left.note.queue.reset();
  left.note.finish.clear();
  EXPECT_TRUE(text_of(left).ends_with(" first=3.2 ms streamed error=\"disconnected\""));
  EXPECT_EQ(level_of(left), LogLevel::kInfo);
}

}  // namespace
}  // namespace lorax

#include "server/http/sse.h"

#include <gtest/gtest.h>

namespace lorax {
namespace {

TEST(SseTest, Events) {
  EXPECT_EQ(sse_event("{\"a\":1}"), "data: {\"a\":1}\n\n");
  EXPECT_EQ(sse_event(""), "data: \n\n");
  EXPECT_EQ(sse_event("a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n");
  EXPECT_EQ(sse_event("\n\n"), "data: \ndata: \ndata: \n\n") << "an empty line would end the event";
}

TEST(SseTest, AlwaysUtf8) {
  EXPECT_EQ(sse_event("\u00e9\U0001F600"), "data: \u00e9\U0001F600\n\n");
  EXPECT_EQ(sse_event("a\xc3"), "data: a\xef\xbf\xbd\n\n");
  EXPECT_EQ(sse_event("\xff\nb"), "data: \xef\xbf\xbd\ndata: b\n\n");
}

}  // namespace
}  // namespace lorax

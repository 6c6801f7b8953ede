#include "server/http/http_error.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>

namespace lorax {
namespace {

TEST(HttpErrorTest, LoraxShape) {
  const HttpResponse response = error_response("/generate", 404, "no \"route\"");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(response.body, "{\"error\":\"no \\\"route\\\"\",\"error_type\":\"not_found\"}");
  EXPECT_EQ(error_response("", 413, "m").body, "{\"error\":\"m\",\"error_type\":\"validation\"}");
  EXPECT_EQ(error_response("/v1", 500, "m").body, "{\"error\":\"m\",\"error_type\":\"internal\"}");
}

TEST(HttpErrorTest, OpenAiShape) {
  EXPECT_EQ(error_response("/v1/chat/completions", 401, "m").body,
            "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\",\"param\":null,"
            "\"code\":\"invalid_api_key\"}}");
  EXPECT_EQ(error_response("/v1/", 415, "m").body,
            "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\",\"param\":null,"
            "\"code\":null}}");
}

TEST(HttpErrorTest, ForeignTextStaysJson) {
  const HttpResponse response = error_response("/", 400, std::string_view("\xff\n\0x", 4));
  EXPECT_EQ(boost::json::parse(response.body).at("error").as_string(),
            std::string_view("\xef\xbf\xbd\n\0x", 6));
}

}  // namespace
}  // namespace lorax

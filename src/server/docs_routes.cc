#include "server/docs_routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include <boost/algorithm/string/replace.hpp>
#include <boost/json/serialize.hpp>

#include "base/html_escape.h"
#include "server/api_operations.h"
#include "server/openapi_document.h"

namespace lorax {
namespace {

std::string curl_line(const ApiOperation& operation, const ApiContext& context,
                      const std::string& server) {
  const std::string path =
      boost::replace_all_copy(operation.path, "{model}", context.settings.model_id);
  std::string line = fmt::format("curl {}{}{}", operation.streams ? "-N " : "", server, path);
  if (!operation.request.empty()) {
    line += fmt::format(" -H 'Content-Type: application/json' -d '{}'", operation.example);
  }
  return line;
}

// Host headers come from clients: what is no host name, address or port is not repeated.
std::string server_of(const HttpRequest& request) {
  const std::string_view host = request.header("Host").value_or("");
  const bool sound = !host.empty() && host.size() < 256 && std::ranges::all_of(host, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view(".-:[]").find(c) != std::string_view::npos;
  });
  return "http://" + (sound ? std::string(host) : "127.0.0.1:3000");
}

}  // namespace

std::string docs_page(const ApiContext& context, const std::string& server) {
  const std::string model = escape_html(context.settings.model_id);
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>lorax.cpp"
      "</title>\n<style>body {{ font-family: sans-serif; max-width: 60em; margin: 2em auto; "
      "padding: 0 1em }} pre {{ background: #eee; padding: 0.5em; white-space: pre-wrap; "
      "overflow-wrap: anywhere }}</style></head>\n<body>\n<h1>lorax.cpp {}</h1>\n"
      "<p>Serves {}. All fields: <a href=\"/api-doc/openapi.json\">OpenAPI document</a>. With an "
      "API key, add <code>-H 'Authorization: Bearer KEY'</code>.</p>\n",
      escape_html(context.settings.version), model);
  std::string tag;
  for (const ApiOperation& operation : api_operations(context)) {
    if (operation.tag != tag) {
      tag = operation.tag;
      page += fmt::format("<h2>{}</h2>\n", escape_html(tag));
    }
    page +=
        fmt::format("<h3><code>{} {}</code></h3>\n<p>{}.</p>\n<pre>{}</pre>\n", operation.method,
                    escape_html(operation.path), escape_html(operation.summary),
                    escape_html(curl_line(operation, context, server)));
  }
  return page + "</body>\n</html>\n";
}

void add_docs_routes(const std::shared_ptr<const ApiContext>& context,
                     std::vector<ApiRoute>& routes) {
  using Writer = std::shared_ptr<ResponseWriter>;
  const std::string document = boost::json::serialize(openapi_document(*context));
  routes.push_back({"GET", "/api-doc/openapi.json",
                    plain_handler(ApiDialect::kLorax,
                                  [document](const HttpRequest&, const Writer& writer) {
                                    writer->respond(json_response(document));
                                  }),
                    /*is_open=*/!context->settings.protects_status});
  routes.push_back({"GET", "/docs",
                    plain_handler(ApiDialect::kLorax,
                                  [context](const HttpRequest& request, const Writer& writer) {
                                    HttpResponse response;
                                    response.content_type = "text/html; charset=utf-8";
                                    response.body = docs_page(*context, server_of(request));
                                    writer->respond(std::move(response));
                                  }),
                    /*is_open=*/!context->settings.protects_status});
}

}  // namespace lorax

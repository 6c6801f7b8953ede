#include "server/lorax/tokenize_route.h"

#include "formats/json_writer.h"
#include "server/api/prompt_tokens.h"
#include "server/api/token_offsets.h"

namespace lorax {
namespace {

HttpResponse tokenize(const ApiContext& context, const HttpRequest& request) {
  TokenizeBody body;
  read_fields(tokenize_fields(), parse_body(request.body), body);
  const std::vector<int32_t> plain = encode_prompt(context.tokenizer, body.inputs, false);
  const std::vector<TokenOffset> offsets = token_offsets(context.tokenizer, plain);
  JsonWriter json;
  const auto write = [&](int32_t id, TokenOffset offset) {
    json.begin_object();
    json.field("id", id);
    json.field("text", context.tokenizer.piece(id));
    json.field("start", offset.start);
    json.field("stop", offset.stop);
    json.end_object();
  };
  json.begin_array();
  if (body.add_special_tokens) {
    const std::vector<int32_t> ids = encode_prompt(context.tokenizer, body.inputs);
    // An added token covers nothing.
    if (ids.size() > plain.size()) write(ids.front(), {});
  }
  for (size_t i = 0; i < plain.size(); ++i) write(plain[i], offsets[i]);
  json.end_array();
  return json_response(json.take());
}

}  // namespace

const FieldTable<TokenizeBody>& tokenize_fields() {
  using B = TokenizeBody;
  static const FieldTable<B> table = {
      required(field<B>("inputs", &B::inputs, {"The text.", "\"My name is Olivier\""})),
      field<B>("add_special_tokens", &B::add_special_tokens,
               {"Put the token that begins a prompt in front."})};
  return table;
}

void add_tokenize_route(const std::shared_ptr<const ApiContext>& context,
                        std::vector<ApiRoute>& routes) {
  routes.push_back({"POST", "/tokenize",
                    worker_handler(context, ApiDialect::kLorax, WorkerLane{"/tokenize", ""},
                                   [context](const HttpRequest& request) {
                                     return tokenize(*context, request);
                                   })});
}

}  // namespace lorax

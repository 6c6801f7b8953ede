// What streams say adds up to what a whole answer says: for random tokens, bytes and special ones
// among them, with and without stop strings, on all routes.
#include <limits>
#include <random>

#include <boost/json/serialize.hpp>
#include <boost/json/value_from.hpp>

#include "engine/sample/text_stream.h"
#include "server/api/response_headers.h"
#include "server/api/token_texts.h"
#include "server/testing/api_fixture.h"

namespace lorax {
namespace {

namespace json = boost::json;

class StreamsTest : public ApiTest {
 protected:
  struct Text {
    std::vector<int32_t> ids;
    std::vector<std::string> stops;
    std::vector<int32_t> eos;
    Script script;
  };

  int32_t id_of(const std::string& piece) const {
    return tiny_tokenizer().find_piece(piece).value_or(3);
  }

  // Ids of words, bytes that are text and bytes that are none, and special tokens.
  std::vector<int32_t> random_ids(size_t count) {
    static const std::vector<std::string> kRuns = {"\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                                                   "\xE2\x82", "\xFF",         "a\xCC\x81"};
    std::vector<int32_t> ids;
    while (ids.size() < count) {
      switch (random_() % 5) {
        case 0:
          for (const unsigned char byte : kRuns[random_() % kRuns.size()]) {
            ids.push_back(id_of(fmt::format("<0x{:02X}>", byte)));
          }
          break;
        case 1:
          ids.push_back(static_cast<int32_t>(random_() % 7));
          break;
        default:
          ids.push_back(static_cast<int32_t>(random_() %
                                             static_cast<uint32_t>(tiny_tokenizer().vocab_size())));
      }
    }
    ids.resize(count);
    return ids;
  }

  // As the engine tells of it.
  Text random_text() {
    const Tokenizer& tokenizer = tiny_tokenizer();
    Text text;
    text.ids = random_ids(1 + random_() % 12);
    const std::string whole = tokenizer.decode(text.ids, true);
    if (random_() % 2 == 0 && !whole.empty()) {
      // A piece of the text that begins and ends between characters.
      const auto border = [&](size_t at) {
        while (at < whole.size() && (static_cast<unsigned char>(whole[at]) & 0xc0) == 0x80) ++at;
        return at;
      };
      const size_t begin = border(random_() % whole.size());
      const size_t end = border(begin + 1 + random_() % 5);
      if (begin < whole.size()) text.stops.push_back(whole.substr(begin, end - begin));
    }
    TextStream stream(tokenizer, text.stops);
    text.script.end.reason = FinishReason::kLength;
    for (const int32_t id : text.ids) {
      GeneratedToken token;
      token.token.id = id;
      token.token.text = spell_token(tokenizer, id);
      token.token.special = tokenizer.is_special(id);
      token.token.logprob = -0.5f;
      token.delta = stream.push(id);
      text.script.tokens.push_back(token);
      if (id == 1) text.script.end.reason = FinishReason::kEosToken;
      if (stream.stopped()) text.script.end.reason = FinishReason::kStopSequence;
      if (text.script.end.reason != FinishReason::kLength) break;
    }
    text.script.end.delta = stream.finish();
    if (stream.stopped()) text.script.end.stop_sequence = stream.stop_sequence();
    return text;
  }

  std::string stop_field(const Text& text) const {
    if (text.stops.empty()) return "";
    return R"(, "stop": )" + json::serialize(json::value_from(text.stops));
  }

  static std::vector<json::value> events_of(const HttpResponse& response) {
    std::vector<json::value> events;
    constexpr std::string_view kData = "data: ";
    for (size_t at = 0; (at = response.body.find(kData, at)) != std::string::npos;) {
      at += kData.size();
      const std::string line = response.body.substr(at, response.body.find('\n', at) - at);
      if (line != "[DONE]") events.push_back(parse_json(line, "event"));
    }
    return events;
  }

  std::mt19937 random_{5};
};

TEST_F(StreamsTest, LoraxTokensAddUpToTheText) {
  for (int round = 0; round < 400; ++round) {
    const Text text = random_text();
    service_.set_script(text.script);
    const std::string body = fmt::format(
        R"({{"inputs": "a", "parameters": {{"details": true, "max_new_tokens": {}{}}}}})",
        text.ids.size(), stop_field(text));
    const json::value whole = parse_json(post("/generate", body).body, "answer");
    const std::string generated(whole.at("generated_text").as_string());
    const json::array& tokens = whole.at("details").at("tokens").as_array();
    std::string sum;
    for (const json::value& token : tokens) {
      if (!token.at("special").as_bool()) sum += token.at("text").as_string();
    }
    EXPECT_EQ(sum, generated) << body;

    const std::vector<json::value> events = events_of(post("/generate_stream", body));
    ASSERT_EQ(events.size(), tokens.size()) << body;
    for (size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(events[i].at("token"), tokens[i]) << body << " token " << i;
    }
    EXPECT_EQ(std::string(events.back().at("generated_text").as_string()), generated);
  }
}

TEST_F(StreamsTest, OpenAiChunksAddUpToTheText) {
  for (int round = 0; round < 200; ++round) {
    const Text text = random_text();
    service_.set_script(text.script);
    const std::string shared =
        fmt::format(R"("model": "", "n": {}{})", 1 + round % 2, stop_field(text));
    const bool echo = round % 3 == 0;
    const std::string completion =
        fmt::format(R"({{"prompt": [5, 20, 30], "echo": {}, {}, "logprobs": 1)", echo, shared);
    const json::value whole = parse_json(post("/v1/completions", completion + "}").body, "answer");
    const auto events = events_of(post("/v1/completions", completion + R"(, "stream": true})"));
    const std::string chat_body =
        R"({"messages": [{"role": "user", "content": "hi"}], )" + shared + R"(, "logprobs": true)";
    const json::value chat =
        parse_json(post("/v1/chat/completions", chat_body + "}").body, "answer");
    const auto deltas = events_of(post("/v1/chat/completions", chat_body + R"(, "stream": true})"));
    for (int64_t index = 0; index <= round % 2; ++index) {
      std::string sum;
      json::array offsets;
      for (const json::value& event : events) {
        const json::value& choice = event.at("choices").at(0);
        if (choice.at("index") != index) continue;
        sum += choice.at("text").as_string();
        if (choice.at("logprobs").is_null()) continue;
        for (const json::value& offset : choice.at("logprobs").at("text_offset").as_array()) {
          offsets.push_back(offset);
        }
      }
      const json::value& choice = whole.at("choices").at(static_cast<size_t>(index));
      EXPECT_EQ(sum, std::string(choice.at("text").as_string())) << completion;
      EXPECT_EQ(offsets, choice.at("logprobs").at("text_offset")) << completion;

      std::string answer;
      for (const json::value& event : deltas) {
        const json::value& delta = event.at("choices").at(0);
        if (delta.at("index") != index) continue;
        if (const auto* content = delta.at("delta").as_object().if_contains("content")) {
          answer += content->as_string();
        }
      }
      EXPECT_EQ(answer, std::string(chat.at("choices")
                                        .at(static_cast<size_t>(index))
                                        .at("message")
                                        .at("content")
                                        .as_string()));
    }
  }
}

// A token whose text is a whole one stands in the text where its offset says.
TEST_F(StreamsTest, OffsetsCountTheTextThatIsReturned) {
  const auto check = [&](const std::string& prompt, bool echo, const Script& script) {
    service_.set_script(script);
    const json::value answer =
        parse_json(post("/v1/completions",
                        fmt::format(R"({{"model": "", "prompt": {}, "echo": {}, "logprobs": 0}})",
                                    prompt, echo))
                       .body,
                   "answer");
    const json::value& choice = answer.at("choices").at(0);
    const std::string text(choice.at("text").as_string());
    const json::array& tokens = choice.at("logprobs").at("tokens").as_array();
    const json::array& offsets = choice.at("logprobs").at("text_offset").as_array();
    std::vector<int64_t> result;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t offset = offsets[i].as_int64();
      result.push_back(offset);
      size_t at = 0;  // in bytes
      for (int64_t left = offset; left > 0 && at < text.size(); ++at) {
        if (at + 1 == text.size() || (static_cast<unsigned char>(text[at + 1]) & 0xc0) != 0x80)
          --left;
      }
      const std::string token(tokens[i].as_string());
      if (token.find("\xEF\xBF\xBD") == std::string::npos && !token.starts_with('<')) {
        EXPECT_EQ(text.substr(at, token.size()), token) << prompt << " token " << i;
      }
    }
    return result;
  };
  const Tokenizer& tokenizer = tiny_tokenizer();
  const auto script_of = [&](const std::vector<int32_t>& ids) {
    Script script;
    TextStream stream(tokenizer, {});
    for (const int32_t id : ids) {
      GeneratedToken token;
      token.token.id = id;
      token.token.text = spell_token(tokenizer, id);
      token.token.special = tokenizer.is_special(id);
      token.token.logprob = -0.5f;
      token.delta = stream.push(id);
      script.tokens.push_back(token);
    }
    script.end.delta = stream.finish();
    return script;
  };
  std::vector<int32_t> ids = tokenizer.encode(" the \xF0\x9F\x98\x80 caf\xC3\xA9 lord");
  ids.insert(ids.begin() + 1, 5);  // a special token, which is no part of the text
  ids.push_back(1);
  Script script = script_of(ids);
  const std::vector<int64_t> plain = check(R"("ab")", false, script);
  EXPECT_EQ(plain.front(), 0);
  EXPECT_EQ(plain[1], plain[2]);
  EXPECT_EQ(plain.back(), static_cast<int64_t>(count_characters(tokenizer.decode(ids, true))));

  const std::string prompt = "<start_of_turn>the b\xC3\xA9 \xF0\x9F\x98\x80";
  std::vector<int32_t> prompt_ids = tokenizer.encode(prompt);
  for (const bool by_ids : {false, true}) {
    script.prompt.clear();
    std::vector<int32_t> all = prompt_ids;
    if (!by_ids) all.insert(all.begin(), *tokenizer.bos_id());
    for (const int32_t id : all) {
      TokenInfo token;
      token.id = id;
      token.text = spell_token(tokenizer, id);
      token.logprob = -0.5f;
      script.prompt.push_back(token);
    }
    const std::string body = by_ids ? json::serialize(json::value_from(prompt_ids))
                                    : json::serialize(json::value(prompt));
    const std::vector<int64_t> echoed = check(body, true, script);
    const auto length = static_cast<int64_t>(count_characters(prompt));
    EXPECT_EQ(echoed[by_ids ? 1 : 2], 15);
    EXPECT_EQ(echoed[all.size()], length);
    EXPECT_EQ(echoed.back(), length + plain.back());
  }
}

}  // namespace
}  // namespace lorax

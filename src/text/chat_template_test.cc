// Goldens of tests/data/text/chat (tools/make_chat_goldens.py), and what they cannot hold: errors
// at load, limits, threads, Gemma 2's real template.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "text/testing/golden_cases.h"

namespace lorax {
namespace {

namespace json = boost::json;

const std::filesystem::path kChatData = testing::kTextData / "chat";

// The time that the goldens were made at: 2024-07-26 09:05:03, local.
std::time_t golden_time() {
  std::tm time{};
  time.tm_year = 124;
  time.tm_mon = 6;
  time.tm_mday = 26;
  time.tm_hour = 9;
  time.tm_min = 5;
  time.tm_sec = 3;
  time.tm_isdst = -1;
  return std::mktime(&time);
}

std::string string_of(const json::value& value) { return std::string(value.as_string()); }

// What came of a template, in the words of the goldens.
struct Outcome {
  std::string kind;  // result, raised, error, syntax
  std::string text;
};

Outcome outcome(const std::string& text, const ChatInput& input) {
  std::optional<ChatTemplate> parsed;
  try {
    parsed = ChatTemplate::parse(text, "golden");
  } catch (const Error& error) {
    return {"syntax", error.what()};
  }
  try {
    return {"result", parsed->render(input)};
  } catch (const TemplateRaised& error) {
    return {"raised", error.what()};
  } catch (const TemplateError& error) {
    return {"error", error.what()};
  }
}

void expect_golden(const std::string& text, const ChatInput& input, const json::object& golden) {
  const Outcome got = outcome(text, input);
  SCOPED_TRACE(text);
  SCOPED_TRACE(json::serialize(golden));
  if (const json::value* result = golden.if_contains("result")) {
    EXPECT_EQ(got.kind, "result") << got.text;
    EXPECT_EQ(got.text, string_of(*result));
  } else if (const json::value* raised = golden.if_contains("raised")) {
    EXPECT_EQ(got.kind, "raised") << got.text;
    if (raised->is_string()) {
      EXPECT_EQ(got.text, string_of(*raised));
    }
  } else if (golden.contains("syntax")) {
    EXPECT_EQ(got.kind, "syntax") << got.text;
  } else {
    // What Jinja only finds while rendering may be found at load here.
    EXPECT_TRUE(got.kind == "error" || got.kind == "syntax") << got.kind << ": " << got.text;
  }
}

ChatInput input_of(const json::object& variables) {
  ChatInput input;
  input.now = golden_time();
  for (const auto& variable : variables) {
    if (variable.key() == "messages") {
      input.messages = variable.value().as_array();
    } else if (variable.key() == "tools") {
      input.tools = variable.value();
    } else if (variable.key() == "documents") {
      input.documents = variable.value();
    } else {
      input.variables.insert(variable);
    }
  }
  return input;
}

void check_snippets(const char* file) {
  const json::value goldens = testing::read_json(kChatData / file);
  const ChatInput input = input_of(goldens.at("variables").as_object());
  for (const json::value& golden : goldens.at("cases").as_array()) {
    expect_golden(string_of(golden.at("template")), input, golden.as_object());
  }
}

TEST(ChatTemplateTest, RendersEveryFeatureAsJinja) { check_snippets("snippets.json"); }

TEST(ChatTemplateTest, RendersRandomTemplatesAsJinja) { check_snippets("random.json"); }

TEST(ChatTemplateTest, RendersTheKnownFamiliesAsJinja) {
  const json::value goldens = testing::read_json(kChatData / "families.json");
  for (const json::value& golden : goldens.at("cases").as_array()) {
    const std::string family = string_of(golden.at("template"));
    const std::string conversation = string_of(golden.at("conversation"));
    SCOPED_TRACE(family + ", " + conversation);
    ChatInput input = input_of(goldens.at("conversations").at(conversation).as_object());
    input.bos_token = "<bos>";
    input.eos_token = "<eos>";
    input.add_generation_prompt = golden.at("add_generation_prompt").as_bool();
    expect_golden(string_of(goldens.at("templates").at(family)), input, golden.as_object());
  }
}

TEST(ChatTemplateTest, RendersGemma2sOwnCases) {
  const char* folder = std::getenv("LORAX_GEMMA2_TOKENIZER_DIR");
  if (folder == nullptr) GTEST_SKIP() << "LORAX_GEMMA2_TOKENIZER_DIR is not set";
  const json::value cases = testing::read_json(std::filesystem::path(folder) / "cases.json");
  const ChatTemplate gemma2 = ChatTemplate::parse(string_of(cases.at("chat_template")), "gemma2");
  for (const json::value& golden : cases.at("chat").as_array()) {
    ChatInput input;
    input.messages = golden.at("messages").as_array();
    input.bos_token = "<bos>";
    EXPECT_EQ(gemma2.render(input), string_of(golden.at("rendered")));
  }
}

// The message of the Error that loading the text gives.
std::string load_error(const std::string& text) {
  try {
    ChatTemplate::parse(text, "model/chat_template.jinja");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChatTemplateTest, NamesWhatItCannotRenderAtLoad) {
  const auto expect = [](const std::string& text, const std::string& message) {
    EXPECT_EQ(load_error(text), "model/chat_template.jinja: " + message) << text;
  };
  expect("a\n{{ x | urlize }}", "line 2: the filter \"urlize\" is not known");
  expect("{{ x is prime }}", "line 1: the test \"prime\" is not known");
  expect("{% if false %}{{ f(1) }}{% endif %}", "line 1: the function \"f\" is not known");
  expect("\n\n{{ x.encode() }}", "line 3: the method \"encode\" is not known");
  expect("{{ xs | map('nope') }}", "line 1: the filter \"nope\" is not known");
  expect("{{ xs | selectattr('a', 'nope') }}", "line 1: the test \"nope\" is not known");
  expect("{% include 'x' %}",
         "line 1: the tag \"include\" is not known or stands in the wrong place");
  expect("{% do x %}", "line 1: the tag \"do\" is not known or stands in the wrong place");
  expect("{% if x %}\n", "line 1: the template ends before \"endif\"");
  expect("{{ x[1, 2] }}", "line 1: a subscript of several parts is not supported");
  expect("{{ 'a\\N{DASH}' }}",
         "line 1: the escape \\N in a string is not supported; write the character itself");
  expect("\xff", "the chat template is not valid UTF-8");
  expect(std::string(ChatTemplate::kMaxBytes + 1, 'a'),
         "a chat template of 1048577 bytes is too long; at most 1048576 are taken");
}

std::string render_error(const std::string& text, json::array messages = {}) {
  ChatInput input;
  input.messages = std::move(messages);
  try {
    ChatTemplate::parse(text, "t").render(input);
  } catch (const TemplateError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChatTemplateTest, NamesTheLineOfWhatFailsInRendering) {
  EXPECT_EQ(render_error("\n{{ x.y }}"), "t: line 2: 'x' is undefined");
  EXPECT_EQ(render_error("a\n\n{{ messages[0].role + 1 }}", {{{"role", "user"}}}),
            "t: line 3: can only concatenate str (not \"int\") to str");
  EXPECT_EQ(render_error("{{ messages[0].a.b }}", {{{"role", "user"}}}),
            "t: line 1: 'dict object' has no attribute 'a'");
  EXPECT_EQ(render_error("{{ raise_exception('a\nb') }}"), "a\\x0ab");
  EXPECT_EQ(render_error("x", {1}), "t: line 0: a message must be an object");
}

TEST(ChatTemplateTest, BoundsWhatARenderingTakes) {
  for (const char* text : {
           "{% set ns = namespace(x='aaaaaaaa') %}"
           "{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
           "{{ 'a' * 10000000000 }}",
           "{{ 'a' * (2 ** 100) }}",
           "{{ [0] * 10000000000 }}",
           "{{ 'a'.center(10000000000) }}",
           "{{ 'a' | indent(10000000000) }}",
           "{{ '%10000000000d' % 1 }}",
           "{{ '{:10000000000}'.format(1) }}",
           "{{ 'aaaa'.replace('', 'b' * 100000000) }}",
           "{{ [1] | batch(10000000000, 0) | list }}",
           "{{ [1] | slice(10000000000) | list }}",
           "{{ [1] | tojson(indent=10000000000) }}",
           "{{ 'a\tb'.expandtabs(10000000000) }}",
           "{{ 3 ** (2 ** 60) }}",
           "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{% macro m() %}{% for i in [1] %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}",
           "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
           "{% set ns = namespace(x=[]) %}"
           "{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}",
           "{% set ns = namespace(x=[1]) %}"
           "{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
           "{% set ns = namespace(x=[1]) %}"
           "{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
           "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(90) %}"
           "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
           "{{ ns.x == ns.y }}",
           "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
           "{% set ns = namespace(x=[]) %}"
           "{% for i in range(1000) %}{% set ns.x = ns.x | map('string') %}{% endfor %}",
           "{% for i in range(100000) %}{{ 'aaaaaaaaaa' * 100 }}{% endfor %}",
       }) {
    const std::string message = render_error(text);
    EXPECT_TRUE(message.starts_with("t: line 1: ")) << text << ": " << message;
  }
}

TEST(ChatTemplateTest, TakesTensOfMillisecondsAndFewMegabytes) {
  const std::string slow = render_error(
      "{% set a = '1' * 90000 %}"
      "{% for i in range(100000) %}{% if a.isdigit() %}{% endif %}{% endfor %}");
  EXPECT_NE(slow.find("takes longer than 50 ms"), std::string::npos) << slow;
  // Long pieces, so that the limit of time is far.
  const std::string piece = "'" + std::string(10000, 'a') + "' * ";
  for (const std::string& text :
       {"{{ " + piece + "900 }}", "{{ [" + piece + "300, " + piece + "300, " + piece + "300] }}"}) {
    const std::string large = render_error(text);
    EXPECT_NE(large.find("takes more than 83"), std::string::npos) << large;
  }
}

// What a template may take grows with what it is given.
TEST(ChatTemplateTest, LongChatsAreRendered) {
  ChatInput input;
  for (int i = 0; i < 500; ++i) {
    input.messages.push_back({{"role", "user"}, {"content", std::string(4096, 'a')}});
  }
  const ChatTemplate parsed = ChatTemplate::parse(
      "{% for m in messages %}{% set c = m.content | trim %}{{ '<' + m.role + '>' + c }}"
      "{% endfor %}",
      "t");
  EXPECT_EQ(parsed.render(input).size(), 500u * (4096 + 6));
}

// Python's min(), max() and sorted() keep the order of equals.
TEST(ChatTemplateTest, TheFirstOfEqualsIsFirst) {
  const ChatTemplate parsed = ChatTemplate::parse(
      "{{ ['b', 'A', 'a'] | min }}{{ ['A', 'B', 'b'] | max }}{{ ['b', 'A', 'B', 'a'] | sort }}"
      "{{ ['b', 'A', 'B', 'a'] | sort(reverse=true) }}"
      "{% set xs = [{'k': 1, 'n': 'x'}, {'k': 1, 'n': 'y'}] %}"
      "{{ (xs | min(attribute='k')).n }}{{ (xs | max(attribute='k')).n }}",
      "t");
  EXPECT_EQ(parsed.render({}), "AB['A', 'a', 'b', 'B']['b', 'B', 'A', 'a']xx");
}

TEST(ChatTemplateTest, RefusesWhatNestsTooDeep) {
  const auto repeat = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  for (const std::string& text : {
           "{{ " + repeat("(", 100000) + "1" + repeat(")", 100000) + " }}",
           "{{ " + repeat("[", 100000) + " }}",
           "{{ 1" + repeat(" + 1", 100000) + " }}",
           "{{ x" + repeat(".y", 100000) + " }}",
           "{{ x" + repeat(" | upper", 100000) + " }}",
           "{{ " + repeat("not ", 100000) + "1 }}",
           "{{ " + repeat("-", 100000) + "1 }}",
           "{{ " + repeat("1 if 1 else ", 50000) + "1 }}",
           repeat("{% if 1 %}", 50000),
           "{% set " + repeat("(", 100000) + "x %}",
       }) {
    EXPECT_NE(load_error(text), "no error") << text.substr(0, 30);
  }
}

// Cycles of namespaces, iterators and loops end with their rendering (under AddressSanitizer), and
// long chains do not overflow the stack.
TEST(ChatTemplateTest, FreesWhatHoldsItself) {
  EXPECT_EQ(render_error("{% set ns = namespace() %}{% set ns.a = [ns] %}"
                         "{% for x in [ns, ns] | map(attribute='a') | unique %}"
                         "{% set ns.l = loop %}{% endfor %}{% set ns.f = ns.a.index %}"),
            "t: line 1: unhashable type: 'list'");
  EXPECT_EQ(render_error("{% set ns = namespace() %}{% for i in range(800) %}"
                         "{% set ns.x = namespace(x=ns.x) %}{% endfor %}"
                         "{% for i in range(800) %}{% for j in [ns.l] %}{% set ns.l = loop %}"
                         "{% endfor %}{% endfor %}"),
            "no error");
}

TEST(ChatTemplateTest, PreparesMessagesAsTransformers) {
  const ChatTemplate dump = ChatTemplate::parse("{{ messages | tojson }}", "t");
  ChatInput input;
  input.messages =
      json::parse(R"([{"role": "assistant", "content": null, "reasoning": "r"}])").as_array();
  EXPECT_EQ(
      dump.render(input),
      R"([{"thinking": "r", "role": "assistant", "reasoning": "r", "reasoning_content": "r"}])");
  input.messages = {{{"role", "user"}, {"content", "\xff"}}};
  EXPECT_EQ(dump.render(input), "[{\"role\": \"user\", \"content\": \"\uFFFD\"}]");
}

TEST(ChatTemplateTest, TellsWhichVariablesItUses) {
  const ChatTemplate parsed =
      ChatTemplate::parse("{% macro m(x) %}{{ tools }}{% endmacro %}{{ 'documents' }}", "t");
  EXPECT_TRUE(parsed.uses("tools"));
  EXPECT_FALSE(parsed.uses("documents"));
}

TEST(ChatTemplateTest, LeavesBosUndefinedIfThereIsNone) {
  const ChatTemplate parsed = ChatTemplate::parse("{{ bos_token is defined }}", "t");
  EXPECT_EQ(parsed.render({}), "False");
}

TEST(ChatTemplateTest, RendersOnManyThreads) {
  const ChatTemplate parsed = ChatTemplate::parse(
      "{% macro m(x) %}<{{ x | upper }}>{% endmacro %}"
      "{% for message in messages %}{{ m(message.content) }}{% endfor %}",
      "t");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&parsed, i] {
      ChatInput input;
      input.messages = {{{"content", std::string(1, static_cast<char>('a' + i))}}};
      const std::string expected = std::string("<") + static_cast<char>('A' + i) + ">";
      for (int k = 0; k < 200; ++k) EXPECT_EQ(parsed.render(input), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace lorax

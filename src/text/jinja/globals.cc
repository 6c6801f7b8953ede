#include "text/jinja/globals.h"

#include <algorithm>
#include <array>

#include "text/jinja/arguments.h"
#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"

namespace lorax::jinja {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"dict", "namespace", "raise_exception", "range",
                                                    "strftime_now"};
constexpr Integer kMaxRange = 100'000;  // as in Jinja's sandbox

Value range(Budget& budget, Args args) {
  if (!args.keyword.empty()) raise("range() takes no keyword arguments");
  const Arguments given("range", std::move(args), {"start", "stop", "step"}, 1);
  Sequence sequence;
  sequence.type = Sequence::Type::kRange;
  sequence.stop = given.integer(given.has(1) ? 1 : 0);
  sequence.start = given.has(1) ? given.integer(0) : 0;
  sequence.step = given.integer(2, 1);
  if (sequence.step == 0) raise("range() arg 3 must not be zero");
  const auto is_inside = [&](Integer at) {
    return sequence.step > 0 ? at < sequence.stop : at > sequence.stop;
  };
  Integer at = sequence.start;
  while (is_inside(at)) {
    if (static_cast<Integer>(sequence.items.size()) >= kMaxRange) {
      raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
    }
    budget.allocate(sizeof(Value));
    sequence.items.emplace_back(at);
    if (__builtin_add_overflow(at, sequence.step, &at)) break;
  }
  return std::make_shared<const Sequence>(std::move(sequence));
}

// The pairs of dict(mapping or pairs, name=value).
std::vector<Dict::Entry> dict_entries(Budget& budget, Args args) {
  std::vector<Dict::Entry> entries;
  if (args.positional.size() > 1) {
    raise("dict expected at most 1 argument, got {}", args.positional.size());
  }
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (const Dict* dict = source.dict()) {
      entries = dict->entries();
    } else {
      for (const Value& item : to_vector(budget, source)) {
        std::vector<Value> pair = to_vector(budget, item);
        if (pair.size() != 2) raise("a dictionary needs pairs, not {} values", pair.size());
        entries.emplace_back(std::move(pair[0]), std::move(pair[1]));
      }
    }
  }
  for (auto& [name, value] : args.keyword) entries.emplace_back(Value(name), std::move(value));
  budget.allocate(entries.size(), sizeof(Dict::Entry));
  return entries;
}

Value dict(Budget& budget, Args args) {
  auto result = std::make_shared<Dict>();
  for (Dict::Entry& entry : dict_entries(budget, std::move(args))) {
    result->set(budget, std::move(entry.first), std::move(entry.second));
  }
  return std::shared_ptr<const Dict>(std::move(result));
}

Value name_space(Budget& budget, Args args) {
  auto space = budget.keep(std::make_shared<Namespace>());
  for (Dict::Entry& entry : dict_entries(budget, std::move(args))) {
    if (entry.first.text() == nullptr) raise("an attribute's name must be a string");
    space->set(entry.first.text()->bytes, std::move(entry.second));
  }
  return space;
}

Value raise_exception(Budget& budget, Args args) {
  const Arguments given("raise_exception", std::move(args), {"message"}, 1);
  throw TemplateRaised(to_string(budget, given.value(0)));
}

Value strftime_now(Args args, std::time_t now) {
  const Arguments given("strftime_now", std::move(args), {"format"}, 1);
  // A mark in front tells an empty result from a buffer that is too small.
  std::string format(1, '.');
  format += given.text(0);
  if (format.find('\0') != std::string::npos) raise("embedded null character");
  if (format.size() > 1000) raise("strftime_now(): the format is longer than 1000 bytes");
  std::tm local{};
  ::localtime_r(&now, &local);
  std::string text(format.size() * 64, '\0');
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &local));
  if (text.empty()) raise("strftime_now(): the format gives too long a text");
  return text.substr(1);
}

}  // namespace

bool is_global_function(std::string_view name) {
  return std::ranges::find(kNames, name) != kNames.end();
}

std::optional<Value> global_function(Budget& budget, std::string_view name, std::time_t now) {
  if (!is_global_function(name)) return std::nullopt;
  return Value::function(std::string(name), [&budget, name = std::string(name), now](Args args) {
    if (name == "range") return range(budget, std::move(args));
    if (name == "dict") return dict(budget, std::move(args));
    if (name == "namespace") return name_space(budget, std::move(args));
    if (name == "raise_exception") return raise_exception(budget, std::move(args));
    return strftime_now(std::move(args), now);
  });
}

}  // namespace lorax::jinja

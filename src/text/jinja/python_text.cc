#include "text/jinja/python_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/jinja/loop.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

// Writes repr() of nested values into one string, which is paid for as it grows.
class ReprWriter {
 public:
  explicit ReprWriter(Budget& budget) : budget_(budget) {}

  void write(const Value& value) {
    const Budget::Level level(budget_);
    if (const Text* text = value.text()) {
      write_text(*text);
    } else if (const Sequence* sequence = value.sequence()) {
      write_sequence(*sequence);
    } else if (const Dict* dict = value.dict()) {
      write_dict(dict->entries());
    } else if (Namespace* space = value.space()) {
      add("<Namespace ");
      std::vector<Dict::Entry> entries;
      for (const auto& [name, attribute] : space->attributes) entries.emplace_back(name, attribute);
      write_dict(entries);
      add(">");
    } else {
      add(plain(value));
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void add(std::string_view text) {
    budget_.allocate(text.size());
    out_ += text;
  }

  static std::string plain(const Value& value) {
    if (value.is_undefined()) return "Undefined";
    if (value.is_none()) return "None";
    if (const bool* boolean = value.boolean()) return *boolean ? "True" : "False";
    if (const auto integer = value.integer()) return integer_text(*integer);
    if (const double* real = value.real()) return real_text(*real);
    if (const Loop* loop = value.loop()) return loop->text();
    raise("a {} cannot be printed", value.type_name());
  }

  void write_text(const Text& text) {
    const std::string& bytes = text.bytes;
    const bool has_single = bytes.find('\'') != std::string::npos;
    const char quote = has_single && bytes.find('"') == std::string::npos ? '"' : '\'';
    std::string quoted(1, quote);
    for (const std::string_view character : characters(bytes)) {
      quoted += escaped(character, quote);
    }
    quoted += quote;
    add(text.safe ? fmt::format("Markup({})", quoted) : quoted);
  }

  static std::string escaped(std::string_view character, char quote) {
    const char32_t code = code_point_at(character, 0);
    if (code == static_cast<char32_t>(quote) || code == '\\') {
      return std::string("\\").append(character);
    }
    if (code == '\n') return "\\n";
    if (code == '\r') return "\\r";
    if (code == '\t') return "\\t";
    if (is_printable(code)) return std::string(character);
    const auto number = static_cast<uint32_t>(code);
    if (number < 0x100) return fmt::format("\\x{:02x}", number);
    if (number < 0x10000) return fmt::format("\\u{:04x}", number);
    return fmt::format("\\U{:08x}", number);
  }

  void write_items(const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) add(", ");
      write(items[i]);
    }
  }

  void write_sequence(const Sequence& sequence) {
    switch (sequence.type) {
      case Sequence::Type::kTuple:
        add("(");
        write_items(sequence.items);
        add(sequence.items.size() == 1 ? ",)" : ")");
        return;
      case Sequence::Type::kRange:
        add(fmt::format("range({}, {}{})", integer_text(sequence.start),
                        integer_text(sequence.stop),
                        sequence.step == 1 ? "" : ", " + integer_text(sequence.step)));
        return;
      case Sequence::Type::kList:
        break;
      case Sequence::Type::kKeys:
        add("dict_keys(");
        break;
      case Sequence::Type::kValues:
        add("dict_values(");
        break;
      case Sequence::Type::kItems:
        add("dict_items(");
    }
    add("[");
    write_items(sequence.items);
    add(sequence.type == Sequence::Type::kList ? "]" : "])");
  }

  void write_dict(const std::vector<Dict::Entry>& entries) {
    add("{");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) add(", ");
      write(entries[i].first);
      add(": ");
      write(entries[i].second);
    }
    add("}");
  }

  Budget& budget_;
  std::string out_;
};

}  // namespace

std::string integer_text(Integer value) { return fmt::format("{}", value); }

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  const std::string_view scientific(buffer, static_cast<size_t>(end - buffer));
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(std::string(scientific.substr(e + 1)).c_str());
  if (exponent < -4 || exponent >= 16) return std::string(scientific);
  std::string digits(scientific.substr(0, e));
  const std::string sign = digits[0] == '-' ? "-" : "";
  std::erase_if(digits, [](char c) { return c == '.' || c == '-'; });
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string repr(Budget& budget, const Value& value) {
  ReprWriter writer(budget);
  writer.write(value);
  return writer.take();
}

std::string to_string(Budget& budget, const Value& value) {
  if (const Text* text = value.text()) {
    budget.allocate(text->bytes.size());
    return text->bytes;
  }
  if (value.is_undefined()) return {};
  return repr(budget, value);
}

}  // namespace lorax::jinja

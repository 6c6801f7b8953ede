#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "text/jinja/operators.h"
#include "text/jinja/python_text.h"
#include "text/jinja/unicode.h"

namespace lorax::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(Budget& budget, const JsonStyle& style) : budget_(budget), style_(style) {}

  void write(const Value& value) {
    const Budget::Level level(budget_);
    if (const Text* text = value.text()) {
      write_text(text->bytes);
    } else if (const Sequence* sequence = value.sequence();
               sequence != nullptr && (sequence->type == Sequence::Type::kList ||
                                       sequence->type == Sequence::Type::kTuple)) {
      write_list(sequence->items);
    } else if (const Dict* dict = value.dict()) {
      write_dict(*dict);
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
    if (value.is_none()) return "null";
    if (const bool* boolean = value.boolean()) return *boolean ? "true" : "false";
    if (const auto integer = value.integer()) return integer_text(*integer);
    if (const double* real = value.real()) {
      if (std::isnan(*real)) return "NaN";
      if (std::isinf(*real)) return *real < 0 ? "-Infinity" : "Infinity";
      return real_text(*real);
    }
    raise("Object of type {} is not JSON serializable", value.type_name());
  }

  void write_text(std::string_view text) {
    std::string quoted = "\"";
    for (const std::string_view character : characters(text)) quoted += escaped(character);
    add(quoted += '"');
  }

  std::string escaped(std::string_view character) const {
    const char32_t code = code_point_at(character, 0);
    switch (code) {
      case '"':
        return "\\\"";
      case '\\':
        return "\\\\";
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
      case '\f':
        return "\\f";
      case '\b':
        return "\\b";
      default:
        break;
    }
    const auto number = static_cast<uint32_t>(code);
    if (number >= 0x20 && (number < 0x7F || !style_.ensure_ascii)) return std::string(character);
    if (number < 0x10000) return fmt::format("\\u{:04x}", number);
    const uint32_t rest = number - 0x10000;
    return fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
  }

  void line(int level) {
    if (!style_.indent) return;
    std::string out = "\n";
    budget_.allocate(static_cast<size_t>(level), style_.indent->size());
    for (int i = 0; i < level; ++i) out += *style_.indent;
    add(out);
  }

  // `write_item(i)` for each of `count` items, between brackets.
  template <typename WriteItem>
  void write_items(char open, char close, size_t count, WriteItem write_item) {
    add({&open, 1});
    ++level_;
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) add(style_.item_separator);
      line(level_);
      write_item(i);
    }
    --level_;
    if (count > 0) line(level_);
    add({&close, 1});
  }

  void write_list(const std::vector<Value>& items) {
    write_items('[', ']', items.size(), [&](size_t i) { write(items[i]); });
  }

  static std::string key_text(const Value& key) {
    if (const Text* text = key.text()) return text->bytes;
    if (key.is_number() || key.is_none()) return plain(key);
    raise("keys must be str, int, float, bool or None, not {}", key.type_name());
  }

  void write_dict(const Dict& dict) {
    std::vector<Dict::Entry> entries = dict.entries();
    if (style_.sort_keys) {
      std::ranges::stable_sort(entries, [&](const Dict::Entry& a, const Dict::Entry& b) {
        return less(budget_, a.first, b.first);
      });
    }
    write_items('{', '}', entries.size(), [&](size_t i) {
      write_text(key_text(entries[i].first));
      add(style_.key_separator);
      write(entries[i].second);
    });
  }

  Budget& budget_;
  const JsonStyle& style_;
  int level_ = 0;
  std::string out_;
};

}  // namespace

std::string to_json(Budget& budget, const Value& value, const JsonStyle& style) {
  JsonWriter writer(budget, style);
  writer.write(value);
  return writer.take();
}

}  // namespace lorax::jinja

#include "text/jinja/loop.h"

#include "text/jinja/python_text.h"

namespace lorax::jinja {

Loop::Loop(Budget& budget, Value items, Recurse recurse, int depth0)
    : budget_(budget),
      items_(std::move(items)),
      cursor_(std::in_place, budget, items_),
      recurse_(std::move(recurse)),
      depth0_(depth0) {}

std::optional<Value> Loop::next() {
  std::optional<Value> item = has_peeked_ ? std::move(ahead_) : take();
  has_peeked_ = false;
  ahead_.reset();
  if (!item) return item;
  ++index0_;
  before_ = std::move(current_);
  current_ = *item;
  return item;
}

const std::optional<Value>& Loop::peek() {
  if (!has_peeked_) ahead_ = take();
  has_peeked_ = ahead_.has_value();
  return ahead_;
}

size_t Loop::length() {
  if (length_) return *length_;
  length_ = length_of(items_);
  if (!length_) {
    // A generator: the rest is taken now, to be counted.
    std::vector<Value> rest;
    while (auto item = take()) {
      budget_.allocate(sizeof(Value));
      rest.push_back(std::move(*item));
    }
    length_ = rest.size() + static_cast<size_t>(index0_ + 1) + (has_peeked_ ? 1 : 0);
    cursor_.emplace(budget_, Value::list(std::move(rest)));
  }
  return *length_;
}

Value Loop::recurse(Value items) const {
  if (!recurse_) {
    raise("the loop must have the 'recursive' marker to be called recursively");
  }
  return recurse_(std::move(items), depth0_ + 1);
}

Value Loop::cycle(const Args& args) const {
  if (args.positional.empty()) raise("no items for cycling given");
  return args.positional[static_cast<size_t>(index0_) % args.positional.size()];
}

bool Loop::changed(Args args) {
  if (finished_) raise("changed() of a loop that has ended");
  const bool same =
      last_changed_ && equal(budget_, Value::tuple(*last_changed_), Value::tuple(args.positional));
  if (!same) last_changed_ = std::move(args.positional);
  return !same;
}

std::string Loop::text() const {
  if (!length_) raise("a loop cannot be printed");
  return "<LoopContext " + integer_text(index0_ + 1) + "/" +
         integer_text(static_cast<Integer>(*length_)) + ">";
}

void Loop::finish() noexcept {
  finished_ = true;
  recurse_ = nullptr;
  cursor_.reset();
  items_ = before_ = current_ = Value();
  ahead_.reset();
  has_peeked_ = false;
  last_changed_.reset();
}

std::optional<Value> Loop::attribute(std::string_view name) {
  const auto length = [this] { return static_cast<Integer>(this->length()); };
  if (name == "index") return index0_ + 1;
  if (name == "index0") return index0_;
  if (name == "first") return index0_ == 0;
  if (name == "last") return !peek().has_value();
  if (name == "length") return length();
  if (name == "revindex") return length() - index0_;
  if (name == "revindex0") return length() - index0_ - 1;
  if (name == "depth") return Integer{depth0_ + 1};
  if (name == "depth0") return Integer{depth0_};
  if (name == "previtem") {
    return index0_ == 0 ? Value::undefined("there is no previous item") : before_;
  }
  if (name == "nextitem") {
    const std::optional<Value>& item = peek();
    return item ? *item : Value::undefined("there is no next item");
  }
  if (name == "cycle") {
    return Value::function(
        "cycle", [self = shared_from_this()](const Args& args) { return self->cycle(args); });
  }
  if (name == "changed") {
    return Value::function("changed", [self = shared_from_this()](Args args) {
      return self->changed(std::move(args));
    });
  }
  return std::nullopt;
}

}  // namespace lorax::jinja

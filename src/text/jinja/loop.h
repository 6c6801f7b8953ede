// The variable `loop` of a for statement: Jinja's LoopContext, which walks the items itself so that
// it can look one ahead.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "text/jinja/operators.h"
#include "text/jinja/value.h"

namespace lorax::jinja {

class Loop : public std::enable_shared_from_this<Loop> {
 public:
  // Renders the loop's body over other items, one level deeper: loop(children).
  using Recurse = std::function<Value(Value items, int depth0)>;

  Loop(Budget& budget, Value items, Recurse recurse, int depth0);

  // The next item, which becomes the current one.
  std::optional<Value> next();

  // An attribute as `loop.index`; nothing if there is none of the name.
  std::optional<Value> attribute(std::string_view name);

  size_t length();
  // What loop(items) gives; throws TemplateError if the loop is not recursive.
  Value recurse(Value items) const;
  std::string text() const;

  // After the last item: drops all items, so that a loop which outlives its statement holds
  // nothing. Called while exceptions pass, too, so it needs no memory.
  void finish() noexcept;

 private:
  std::optional<Value> take() { return cursor_ ? cursor_->next() : std::nullopt; }
  const std::optional<Value>& peek();
  Value cycle(const Args& args) const;
  bool changed(Args args);

  Budget& budget_;
  Value items_;
  std::optional<Cursor> cursor_;  // none once it has ended
  Recurse recurse_;
  int depth0_;
  Integer index0_ = -1;
  std::optional<size_t> length_;
  bool has_peeked_ = false;
  std::optional<Value> ahead_;
  Value before_;
  Value current_;
  std::optional<std::vector<Value>> last_changed_;
  bool finished_ = false;
};

}  // namespace lorax::jinja

// The filters of Jinja, `value | name(args)`, those of its list that text without markup needs, and
// transformers' own tojson.
#pragma once

#include <map>
#include <string_view>

#include "text/jinja/value.h"

namespace lorax::jinja {

using Filter = Value (*)(Budget& budget, const Value& value, Args args);
using FilterTable = std::map<std::string_view, Filter>;

// Null if there is none of the name.
Filter find_filter(std::string_view name);

// The parts of the list: of texts and numbers, of sequences, and those that call others by name.
const FilterTable& text_filters();
const FilterTable& number_filters();
const FilterTable& sequence_filters();
const FilterTable& order_filters();
const FilterTable& calling_filters();

// What the filters "sort", "unique", "min" compare: the value at `path`, in lower case if it is a
// text and case does not count.
Value sort_key(Budget& budget, Value value, bool case_sensitive);

}  // namespace lorax::jinja

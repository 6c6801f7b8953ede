// What a template's names are: which it reads, which it assigns, which it calls. Gathered while
// parsing, checked at the end.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace lorax::jinja {

struct CalledName {
  std::string name;
  int line;
};

struct TemplateNames {
  std::set<std::string, std::less<>> read;
  std::set<std::string, std::less<>> assigned;    // set, for, macro, with and parameters
  std::set<std::string, std::less<>> attributes;  // of namespaces: set ns.x, namespace(x=...)
  std::vector<CalledName> called;                 // name(...)
  std::vector<CalledName> called_methods;         // object.name(...)
};

}  // namespace lorax::jinja

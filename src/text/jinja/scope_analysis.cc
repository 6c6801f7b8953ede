#include "text/jinja/scope_analysis.h"

#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lorax::jinja {
namespace {

// The names of one scope, in the order of the text.
class Symbols {
 public:
  explicit Symbols(const Symbols* outer) : outer_(outer) {}

  void declare(const std::string& name) { known_.insert(name); }
  void load(const std::string& name) {
    if (!is_known(name)) known_.insert(name);
  }
  void store(const std::string& name) {
    if (known_.contains(name)) return;
    if (outer_ == nullptr || !outer_->is_known(name)) hidden_.insert(name);
    known_.insert(name);
  }

  // The names of a branch of an if. What only a branch stores is not hidden.
  void merge(const Symbols& branch) { known_.insert(branch.known_.begin(), branch.known_.end()); }

  std::vector<std::string> hidden() const { return {hidden_.begin(), hidden_.end()}; }

 private:
  bool is_known(const std::string& name) const {
    return known_.contains(name) || (outer_ != nullptr && outer_->is_known(name));
  }

  const Symbols* outer_;
  std::set<std::string> known_;
  std::set<std::string> hidden_;
};

// The names that an expression reads.
class Loads {
 public:
  explicit Loads(Symbols& symbols) : symbols_(symbols) {}

  void visit(const ExprPtr& expr) {
    if (expr != nullptr) std::visit([this](const auto& node) { visit(node); }, expr->node);
  }

 private:
  void visit(const std::vector<ExprPtr>& exprs) {
    for (const ExprPtr& expr : exprs) visit(expr);
  }
  void visit(const CallArgs& args) {
    visit(args.positional);
    for (const auto& keyword : args.keyword) visit(keyword.second);
    visit(args.star);
    visit(args.double_star);
  }
  void visit(const Literal&) {}
  void visit(const Name& node) { symbols_.load(node.name); }
  void visit(const ListDisplay& node) { visit(node.items); }
  void visit(const DictDisplay& node) {
    for (const auto& item : node.items) {
      visit(item.first);
      visit(item.second);
    }
  }
  void visit(const GetAttribute& node) { visit(node.object); }
  void visit(const GetItem& node) {
    visit(node.object);
    visit(node.key);
  }
  void visit(const GetSlice& node) {
    visit(node.object);
    visit(node.start);
    visit(node.stop);
    visit(node.step);
  }
  void visit(const CallExpr& node) {
    visit(node.function);
    visit(node.args);
  }
  void visit(const FilterExpr& node) {
    visit(node.value);
    visit(node.args);
  }
  void visit(const TestExpr& node) {
    visit(node.value);
    visit(node.args);
  }
  void visit(const Unary& node) { visit(node.operand); }
  void visit(const Binary& node) {
    visit(node.left);
    visit(node.right);
  }
  void visit(const Logical& node) {
    visit(node.left);
    visit(node.right);
  }
  void visit(const Concat& node) { visit(node.parts); }
  void visit(const Comparison& node) {
    visit(node.first);
    for (const auto& operand : node.rest) visit(operand.second);
  }
  void visit(const Conditional& node) {
    visit(node.condition);
    visit(node.then);
    visit(node.otherwise);
  }

  Symbols& symbols_;
};

void load(Symbols& symbols, const ExprPtr& expr) { Loads(symbols).visit(expr); }

void store(Symbols& symbols, const Target& target) {
  for (const Target& part : target.parts) store(symbols, part);
  if (target.is_tuple) return;
  if (target.attribute.empty()) {
    symbols.store(target.name);
  } else {
    symbols.load(target.name);
  }
}

void declare(Symbols& symbols, const Target& target) {
  for (const Target& part : target.parts) declare(symbols, part);
  if (!target.is_tuple) symbols.declare(target.name);
}

// The names of the statements of one scope; bodies with scopes of their own are left out.
class Gather {
 public:
  explicit Gather(Symbols& symbols) : symbols_(symbols) {}

  void visit(const Body& body) {
    for (const Statement& statement : body) {
      std::visit([this](const auto& node) { visit(node); }, statement.node);
    }
  }

 private:
  void visit(const Data&) {}
  void visit(const Output& node) {
    for (const ExprPtr& value : node.values) load(symbols_, value);
  }
  void visit(const For& node) { load(symbols_, node.items); }
  void visit(const Set& node) {
    load(symbols_, node.value);
    store(symbols_, node.target);
  }
  void visit(const SetBlock& node) { store(symbols_, node.target); }
  void visit(const Macro& node) { symbols_.store(node.macro.name); }
  void visit(const CallBlock& node) { load(symbols_, node.call); }
  void visit(const FilterBlock& node) { load(symbols_, node.filter); }
  void visit(const With& node) {
    for (const auto& value : node.values) load(symbols_, value.second);
  }
  void visit(const Generation&) {}
  void visit(const LoopControl&) {}

  // Each branch goes on from what is known before the if, and none sees another.
  void visit(const If& node) {
    load(symbols_, node.branches.front().first);
    const Symbols before = symbols_;
    std::vector<Symbols> branches;
    for (size_t i = 0; i < node.branches.size(); ++i) {
      Symbols branch = before;
      if (i > 0) load(branch, node.branches[i].first);
      Gather(branch).visit(node.branches[i].second);
      branches.push_back(std::move(branch));
    }
    Symbols otherwise = before;
    Gather(otherwise).visit(node.otherwise);
    for (const Symbols& branch : branches) symbols_.merge(branch);
    symbols_.merge(otherwise);
  }

  Symbols& symbols_;
};

// Goes into the bodies that have scopes of their own.
class Analysis {
 public:
  // `declared` holds the names that the scope begins with.
  void analyze(ScopedBody& body, Symbols declared, const ExprPtr* filter = nullptr) {
    Gather(declared).visit(body.statements);
    if (filter != nullptr) load(declared, *filter);
    body.hidden = declared.hidden();
    enter(body.statements, declared);
  }

 private:
  void enter(Body& body, const Symbols& symbols) {
    for (Statement& statement : body) {
      std::visit([&](auto& node) { enter(node, symbols); }, statement.node);
    }
  }

  void enter(Data&, const Symbols&) {}
  void enter(Output&, const Symbols&) {}
  void enter(Set&, const Symbols&) {}
  void enter(LoopControl&, const Symbols&) {}
  void enter(If& node, const Symbols& symbols) {
    for (auto& branch : node.branches) enter(branch.second, symbols);
    enter(node.otherwise, symbols);
  }
  void enter(For& node, const Symbols& symbols) {
    Symbols inner(&symbols);
    declare(inner, node.target);
    inner.declare("loop");
    analyze(node.body, std::move(inner));
    analyze(node.otherwise, Symbols(&symbols));
  }
  void enter(SetBlock& node, const Symbols& symbols) { analyze(node.body, Symbols(&symbols)); }
  void enter(FilterBlock& node, const Symbols& symbols) {
    analyze(node.body, Symbols(&symbols), &node.filter);
  }
  void enter(Macro& node, const Symbols& symbols) { enter(node.macro, symbols); }
  void enter(CallBlock& node, const Symbols& symbols) { enter(node.caller, symbols); }
  void enter(MacroBody& macro, const Symbols& symbols) {
    Symbols inner(&symbols);
    for (const char* special : {"caller", "kwargs", "varargs"}) inner.declare(special);
    for (const Parameter& parameter : macro.parameters) inner.declare(parameter.name);
    for (const Parameter& parameter : macro.parameters) load(inner, parameter.otherwise);
    analyze(macro.body, std::move(inner));
  }
  void enter(With& node, const Symbols& symbols) {
    Symbols inner(&symbols);
    for (const auto& value : node.values) declare(inner, value.first);
    analyze(node.body, std::move(inner));
  }
  void enter(Generation& node, const Symbols& symbols) { analyze(node.body, Symbols(&symbols)); }
};

}  // namespace

void analyze_scopes(ScopedBody& root) { Analysis().analyze(root, Symbols(nullptr)); }

}  // namespace lorax::jinja

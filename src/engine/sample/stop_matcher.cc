#include "engine/sample/stop_matcher.h"

#include "base/utf8.h"

namespace lorax {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) : nodes_(1) {
  for (const std::string& stop : stops) {
    if (!stop.empty() && is_valid_utf8(stop)) stops_.push_back(stop);
  }
  for (size_t i = 0; i < stops_.size(); ++i) add(i);
  set_fallbacks();
}

StopMatcher::Match StopMatcher::push(std::string_view piece) {
  if (stops_.empty()) return {};
  for (size_t i = 0; i < piece.size(); ++i) {
    state_ = step(state_, piece[i]);
    const int32_t stop = nodes_[state_].stop;
    if (stop >= 0) return {&stops_[static_cast<size_t>(stop)], i + 1};
  }
  return {};
}

uint32_t StopMatcher::child(uint32_t node, char byte) const {
  uint32_t found = nodes_[node].first_child;
  while (found != 0 && nodes_[found].byte != byte) found = nodes_[found].next_sibling;
  return found;
}

uint32_t StopMatcher::add_child(uint32_t node, char byte) {
  const auto added = static_cast<uint32_t>(nodes_.size());
  Node& child = nodes_.emplace_back();
  child.byte = byte;
  child.depth = nodes_[node].depth + 1;
  child.next_sibling = nodes_[node].first_child;
  nodes_[node].first_child = added;
  return added;
}

void StopMatcher::add(size_t stop) {
  uint32_t node = 0;
  for (char byte : stops_[stop]) {
    const uint32_t next = child(node, byte);
    node = next != 0 ? next : add_child(node, byte);
  }
  nodes_[node].stop = static_cast<int32_t>(stop);
}

// By depth: a node's fallback is shorter than the node.
void StopMatcher::set_fallbacks() {
  std::vector<uint32_t> queue = {0};
  for (size_t i = 0; i < queue.size(); ++i) {
    const uint32_t parent = queue[i];
    for (uint32_t node = nodes_[parent].first_child; node != 0; node = nodes_[node].next_sibling) {
      nodes_[node].fallback = parent == 0 ? 0 : step(nodes_[parent].fallback, nodes_[node].byte);
      if (nodes_[node].stop < 0) nodes_[node].stop = nodes_[nodes_[node].fallback].stop;
      queue.push_back(node);
    }
  }
}

uint32_t StopMatcher::step(uint32_t node, char byte) const {
  while (true) {
    const uint32_t next = child(node, byte);
    if (next != 0 || node == 0) return next;
    node = nodes_[node].fallback;
  }
}

}  // namespace lorax

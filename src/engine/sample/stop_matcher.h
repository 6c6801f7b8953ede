// Finds stop strings in a text that comes in pieces: the automaton of Aho and Corasick, byte by
// byte, so that what is found does not depend on where pieces end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorax {

class StopMatcher {
 public:
  // Strings that are empty or no valid UTF-8 are never found.
  explicit StopMatcher(const std::vector<std::string>& stops);

  bool empty() const { return stops_.empty(); }

  struct Match {
    const std::string* stop = nullptr;  // null: none was found
    size_t end = 0;                     // bytes of the piece up to the end of the stop string
  };
  // The stop string that is complete first; of several, the longest. After a match the rest of the
  // piece has not been read.
  Match push(std::string_view piece);

  // Length of the longest end of the text that some stop string begins with.
  size_t held_back() const { return nodes_[state_].depth; }

 private:
  struct Node {
    uint32_t first_child = 0;  // 0: none
    uint32_t next_sibling = 0;
    uint32_t fallback = 0;  // the node of the longest proper end of this one's string
    uint32_t depth = 0;
    int32_t stop = -1;  // longest stop string that this node's string ends with
    char byte = 0;
  };

  uint32_t child(uint32_t node, char byte) const;
  uint32_t add_child(uint32_t node, char byte);
  void add(size_t stop);
  void set_fallbacks();
  uint32_t step(uint32_t node, char byte) const;

  std::vector<std::string> stops_;
  std::vector<Node> nodes_;  // 0 is the root
  uint32_t state_ = 0;
};

}  // namespace lorax

// Pages whose keys and values a later request can take over: those of equal beginnings. A tree per
// namespace; a page is found by its namespace, the page before it and its own tokens, all of which
// are compared: hashes only say where to look. Namespaces keep adapters apart, whose keys and
// values differ for equal tokens.
//
// A page in use holds the pages before it in use, too; hence the idle page that is oldest has no
// successor, and evicting it costs nothing else. Host logic only, one thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/schedule/block_allocator.h"

namespace lorax {

// Pages wholly within the first `tokens` are those of another namespace.
struct PrefixStem {
  std::string name_space;
  int64_t tokens = 0;
};

class PrefixCache {
 public:
  // The allocator must outlive this.
  PrefixCache(BlockAllocator& allocator, int64_t block_size);
  // Lets all idle pages go. Precondition: no table holds a page that is registered.
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Appends to `table`, which is empty, the pages that hold the beginning of `tokens`, but never
  // all of `tokens`. Returns how many tokens they hold.
  int64_t match(const std::string& name_space, std::span<const int32_t> tokens, BlockTable& table,
                const PrefixStem& stem = {});

  // Registers pages [registered, tokens.size() / block_size) of a table: they hold the keys and
  // values of `tokens`, computed. A page that is known already is replaced in the table by that
  // one. Pages before `registered` have been matched or registered. Returns the new `registered`.
  int64_t insert(const std::string& name_space, std::span<const int32_t> tokens, int64_t registered,
                 BlockTable& table, const PrefixStem& stem = {});

  // Frees the idle page that is oldest. False if there is none.
  bool evict();

 private:
  struct Node {
    uint64_t hash = 0;
    uint64_t root = 0;                       // number of the namespace
    int32_t parent = BlockAllocator::kNone;  // the page before
    int32_t next = BlockAllocator::kNone;    // in the same bucket
    int32_t children = 0;
  };
  struct Root {
    uint64_t number = 0;
    int64_t pages = 0;
  };

  const std::string& space_of(int64_t page, const std::string& name_space,
                              const PrefixStem& stem) const {
    return (page + 1) * block_size_ <= stem.tokens ? stem.name_space : name_space;
  }
  Root& root_of(const std::string& name_space);
  Node& node(int32_t block) { return nodes_[static_cast<size_t>(block)]; }
  std::span<int32_t> tokens_of(int32_t block);
  uint64_t hash_of(uint64_t parent_hash, std::span<const int32_t> tokens) const;
  int32_t& bucket_of(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  int32_t find(uint64_t hash, uint64_t root, int32_t parent, std::span<const int32_t> tokens);
  void add(int32_t block, const Node& node, std::span<const int32_t> tokens);
  void remove(int32_t block);

  BlockAllocator& allocator_;
  const int64_t block_size_;
  const uint64_t seed_;          // unknown to clients, who could else choose tokens of equal hashes
  std::vector<Node> nodes_;      // by page
  std::vector<int32_t> tokens_;  // [blocks, block_size]
  std::vector<int32_t> buckets_;
  uint64_t last_root_ = 0;
  std::unordered_map<std::string, Root> roots_;  // that have pages
  std::unordered_map<uint64_t, std::string> names_;
};

}  // namespace lorax

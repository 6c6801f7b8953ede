#include "engine/schedule/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <random>

#include "base/check.h"
#include "base/mix64.h"

namespace lorax {
namespace {

constexpr int32_t kNone = BlockAllocator::kNone;

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

PrefixCache::PrefixCache(BlockAllocator& allocator, int64_t block_size)
    : allocator_(allocator),
      block_size_(block_size),
      seed_(random_seed()),
      nodes_(static_cast<size_t>(allocator.blocks())),
      tokens_(static_cast<size_t>(allocator.blocks() * block_size)),
      buckets_(std::bit_ceil(static_cast<size_t>(2 * allocator.blocks() + 1)), kNone) {}

PrefixCache::~PrefixCache() {
  while (evict()) {
  }
}

int64_t PrefixCache::match(const std::string& name_space, std::span<const int32_t> tokens,
                           BlockTable& table, const PrefixStem& stem) {
  LORAX_CHECK(table.size() == 0);
  if (tokens.empty()) return 0;
  const int64_t pages = (static_cast<int64_t>(tokens.size()) - 1) / block_size_;
  int32_t block = kNone;
  uint64_t hash = 0;
  for (int64_t i = 0; i < pages; ++i) {
    const auto root = roots_.find(space_of(i, name_space, stem));
    if (root == roots_.end()) break;
    const auto part =
        tokens.subspan(static_cast<size_t>(i * block_size_), static_cast<size_t>(block_size_));
    hash = hash_of(i == 0 ? root->second.number : hash, part);
    block = find(hash, root->second.number, block, part);
    if (block == kNone) break;
    table.share(block);
  }
  return table.size() * block_size_;
}

PrefixCache::Root& PrefixCache::root_of(const std::string& name_space) {
  Root& root = roots_[name_space];
  if (root.number == 0) {
    root.number = ++last_root_;
    names_[root.number] = name_space;
  }
  return root;
}

int64_t PrefixCache::insert(const std::string& name_space, std::span<const int32_t> tokens,
                            int64_t registered, BlockTable& table, const PrefixStem& stem) {
  const int64_t pages = static_cast<int64_t>(tokens.size()) / block_size_;
  if (registered >= pages) return registered;
  int32_t parent = registered == 0 ? kNone : table.ids()[static_cast<size_t>(registered - 1)];
  for (int64_t i = registered; i < pages; ++i) {
    Root& root = root_of(space_of(i, name_space, stem));
    const auto part =
        tokens.subspan(static_cast<size_t>(i * block_size_), static_cast<size_t>(block_size_));
    const uint64_t hash = hash_of(parent == kNone ? root.number : node(parent).hash, part);
    int32_t block = find(hash, root.number, parent, part);
    if (block != kNone) {
      table.replace(i, block);
    } else {
      block = table.ids()[static_cast<size_t>(i)];
      add(block, {.hash = hash, .root = root.number, .parent = parent}, part);
      ++root.pages;
    }
    parent = block;
  }
  return pages;
}

bool PrefixCache::evict() {
  const int32_t block = allocator_.oldest_idle();
  if (block == kNone) return false;
  remove(block);
  allocator_.drop_idle(block);
  return true;
}

std::span<int32_t> PrefixCache::tokens_of(int32_t block) {
  return std::span(tokens_).subspan(static_cast<size_t>(block * block_size_),
                                    static_cast<size_t>(block_size_));
}

uint64_t PrefixCache::hash_of(uint64_t parent_hash, std::span<const int32_t> tokens) const {
  uint64_t hash = parent_hash ^ seed_;
  for (int32_t token : tokens) hash = mix64(hash + static_cast<uint32_t>(token) + 1);
  return hash;
}

int32_t PrefixCache::find(uint64_t hash, uint64_t root, int32_t parent,
                          std::span<const int32_t> tokens) {
  for (int32_t block = bucket_of(hash); block != kNone; block = node(block).next) {
    const Node& found = node(block);
    if (found.hash == hash && found.root == root && found.parent == parent &&
        std::ranges::equal(tokens_of(block), tokens)) {
      return block;
    }
  }
  return kNone;
}

void PrefixCache::add(int32_t block, const Node& added, std::span<const int32_t> tokens) {
  allocator_.keep(block);
  node(block) = added;
  std::ranges::copy(tokens, tokens_of(block).begin());
  node(block).next = std::exchange(bucket_of(added.hash), block);
  if (added.parent != kNone) ++node(added.parent).children;
}

void PrefixCache::remove(int32_t block) {
  const Node& removed = node(block);
  LORAX_CHECK(removed.children == 0);
  int32_t* link = &bucket_of(removed.hash);
  while (*link != block) link = &node(*link).next;
  *link = removed.next;
  if (removed.parent != kNone) --node(removed.parent).children;
  const auto name = names_.find(removed.root);
  const auto root = roots_.find(name->second);
  if (--root->second.pages == 0) {
    roots_.erase(root);
    names_.erase(name);
  }
}

}  // namespace lorax

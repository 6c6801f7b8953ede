// Who holds which page of the key/value memory. Pages are numbers; each has a count of the block
// tables that hold it, and may besides be kept by the prefix cache once none does. Host logic only,
// one thread.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace lorax {

// Pages that hold `tokens` tokens.
constexpr int64_t pages_for(int64_t tokens, int64_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

// A page is free, in use (by one or more tables), or idle: kept, but in no table. Idle pages stand
// in a list, those that became idle first at its front.
class BlockAllocator {
 public:
  static constexpr int32_t kNone = -1;

  explicit BlockAllocator(int64_t blocks);
  // Precondition: no table holds a page.
  ~BlockAllocator();
  BlockAllocator(const BlockAllocator&) = delete;
  BlockAllocator& operator=(const BlockAllocator&) = delete;

  int64_t blocks() const { return static_cast<int64_t>(pages_.size()); }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  int64_t idle() const { return idle_; }
  int64_t in_use() const { return blocks() - free() - idle(); }
  int64_t uses(int32_t block) const { return page(block).uses; }

  // For the prefix cache. A kept page becomes idle, not free, when the last table lets it go.
  bool is_kept(int32_t block) const { return page(block).kept; }
  void keep(int32_t block);
  // Precondition: idle. The page is free then.
  void drop_idle(int32_t block);
  // kNone if there is none.
  int32_t oldest_idle() const { return oldest_idle_; }

 private:
  friend class BlockTable;
  struct Page {
    int64_t uses = 0;
    bool kept = false;
    int32_t older = kNone;  // neighbours in the list of idle pages
    int32_t younger = kNone;
  };
  const Page& page(int32_t block) const { return pages_[static_cast<size_t>(block)]; }
  Page& page(int32_t block) { return pages_[static_cast<size_t>(block)]; }

  int32_t take_free();  // kNone if there is none
  void use(int32_t block);
  void release(int32_t block);
  void link_idle(int32_t block);
  void unlink_idle(int32_t block);

  std::vector<Page> pages_;
  std::vector<int32_t> free_;
  int64_t idle_ = 0;
  int32_t oldest_idle_ = kNone;
  int32_t youngest_idle_ = kNone;
};

// The pages of one sequence, in the order of its tokens: all that holds pages. Gives them back when
// it goes, the last one first. Must not outlive its allocator.
class BlockTable {
 public:
  explicit BlockTable(BlockAllocator& allocator) : allocator_(&allocator) {}
  ~BlockTable() { clear(); }
  BlockTable(BlockTable&& other) noexcept
      : allocator_(other.allocator_), ids_(std::exchange(other.ids_, {})) {}
  BlockTable& operator=(BlockTable&& other) noexcept;

  std::span<const int32_t> ids() const { return ids_; }
  int64_t size() const { return static_cast<int64_t>(ids_.size()); }

  // Appends a free page. False if there is none.
  bool grow();
  // Appends a page that is in use or idle.
  void share(int32_t block);
  // Holds `block`, in use or idle, in place of the page at `index`.
  void replace(int64_t index, int32_t block);
  void clear();

 private:
  BlockAllocator* allocator_;
  std::vector<int32_t> ids_;
};

}  // namespace lorax

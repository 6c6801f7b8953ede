#include "engine/schedule/block_allocator.h"

#include "base/check.h"

namespace lorax {

BlockAllocator::BlockAllocator(int64_t blocks) : pages_(static_cast<size_t>(blocks)) {
  free_.reserve(pages_.size());
  // The lowest ids are handed out first.
  for (int64_t id = blocks - 1; id >= 0; --id) free_.push_back(static_cast<int32_t>(id));
}

BlockAllocator::~BlockAllocator() {
  LORAX_CHECK(in_use() == 0, "{} pages outlive their allocator", in_use());
}

void BlockAllocator::keep(int32_t block) {
  LORAX_CHECK(page(block).uses > 0 && !page(block).kept);
  page(block).kept = true;
}

void BlockAllocator::drop_idle(int32_t block) {
  LORAX_CHECK(page(block).uses == 0 && page(block).kept);
  unlink_idle(block);
  page(block).kept = false;
  free_.push_back(block);
}

int32_t BlockAllocator::take_free() {
  if (free_.empty()) return kNone;
  const int32_t block = free_.back();
  free_.pop_back();
  page(block).uses = 1;
  return block;
}

void BlockAllocator::use(int32_t block) {
  LORAX_CHECK(page(block).uses > 0 || page(block).kept, "page {} is free", block);
  if (page(block).uses++ == 0) unlink_idle(block);
}

void BlockAllocator::release(int32_t block) {
  LORAX_CHECK(page(block).uses > 0);
  if (--page(block).uses > 0) return;
  if (page(block).kept) {
    link_idle(block);
  } else {
    free_.push_back(block);
  }
}

void BlockAllocator::link_idle(int32_t block) {
  page(block).older = youngest_idle_;
  page(block).younger = kNone;
  (youngest_idle_ == kNone ? oldest_idle_ : page(youngest_idle_).younger) = block;
  youngest_idle_ = block;
  ++idle_;
}

void BlockAllocator::unlink_idle(int32_t block) {
  const int32_t older = page(block).older;
  const int32_t younger = page(block).younger;
  (older == kNone ? oldest_idle_ : page(older).younger) = younger;
  (younger == kNone ? youngest_idle_ : page(younger).older) = older;
  --idle_;
}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this == &other) return *this;
  clear();
  allocator_ = other.allocator_;
  ids_ = std::exchange(other.ids_, {});
  return *this;
}

// Its place first, so that no page is lost where that cannot be had.
bool BlockTable::grow() {
  ids_.push_back(BlockAllocator::kNone);
  ids_.back() = allocator_->take_free();
  if (ids_.back() != BlockAllocator::kNone) return true;
  ids_.pop_back();
  return false;
}

void BlockTable::share(int32_t block) {
  ids_.push_back(block);
  allocator_->use(block);
}

void BlockTable::replace(int64_t index, int32_t block) {
  allocator_->use(block);
  allocator_->release(std::exchange(ids_[static_cast<size_t>(index)], block));
}

void BlockTable::clear() {
  for (; !ids_.empty(); ids_.pop_back()) allocator_->release(ids_.back());
}

}  // namespace lorax

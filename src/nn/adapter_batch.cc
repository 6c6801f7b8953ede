#include "nn/adapter_batch.h"

#include <algorithm>

namespace lorax {

void AdapterSegments::clear() {
  boundaries_.assign(1, 0);
  indices_.clear();
}

void AdapterSegments::reserve(size_t runs) {
  boundaries_.reserve(runs + 1);
  indices_.reserve(runs);
}

void AdapterSegments::append(int32_t adapter, int64_t rows) {
  if (rows == 0) return;
  const int32_t end = boundaries_.back() + static_cast<int32_t>(rows);
  if (!indices_.empty() && indices_.back() == adapter) {
    boundaries_.back() = end;
  } else {
    boundaries_.push_back(end);
    indices_.push_back(adapter);
  }
}

void AdapterBatchMetadata::reserve(int64_t rows) {
  const size_t count = static_cast<size_t>(rows);
  segments_.reserve(count);
  rows_.reserve(count);
  group_boundaries_.reserve(count + 1);
  slots_.reserve(count);
}

void AdapterBatchMetadata::clear() {
  segments_.clear();
  rows_.clear();
  group_boundaries_.clear();
  slots_.clear();
}

void AdapterBatchMetadata::append(int32_t adapter, int64_t rows) {
  segments_.append(adapter, rows);
}

void AdapterBatchMetadata::group() {
  slots_.assign(segments_.indices().begin(), segments_.indices().end());
  std::ranges::sort(slots_);
  slots_.erase(std::unique(slots_.begin(), slots_.end()), slots_.end());
  std::erase(slots_, kNoAdapter);
  rows_.clear();
  group_boundaries_.assign(1, 0);
  for (int32_t slot : slots_) {
    for (size_t run = 0; run < segments_.indices().size(); ++run) {
      if (segments_.indices()[run] != slot) continue;
      for (int32_t row = segments_.boundaries()[run]; row < segments_.boundaries()[run + 1];
           ++row) {
        rows_.push_back(row);
      }
    }
    group_boundaries_.push_back(static_cast<int32_t>(rows_.size()));
  }
}

bool AdapterBatchData::has_lora(int64_t module) const {
  if (lora_modules_ != nullptr) return (*lora_modules_)[static_cast<size_t>(module)];
  return std::ranges::any_of(metadata_.slots(), [&](int32_t slot) {
    return tables_.slot(slot).lora[static_cast<size_t>(module)].rank > 0;
  });
}

bool AdapterBatchData::has_replacement(int64_t module) const {
  if (lora_modules_ != nullptr) return false;
  return std::ranges::any_of(metadata_.slots(), [&](int32_t slot) {
    return tables_.slot(slot).replacement(module) != nullptr;
  });
}

bool AdapterBatchData::has_tokens(int64_t module) const {
  if (lora_modules_ != nullptr) return false;
  return std::ranges::any_of(metadata_.slots(), [&](int32_t slot) {
    return tables_.slot(slot).tokens_of(module) != nullptr;
  });
}

int64_t AdapterBatchData::speculative_heads() const {
  if (lora_modules_ != nullptr) return 0;
  int64_t heads = 0;
  for (int32_t slot : metadata_.slots()) {
    heads = std::max(heads, static_cast<int64_t>(tables_.slot(slot).medusa.size()));
  }
  return std::min(heads, max_speculative_heads_);
}

}  // namespace lorax

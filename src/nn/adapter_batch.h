// Which adapter each row of a step uses, and what the layers need to know of these adapters:
// LoRAX's AdapterBatchMetadata and AdapterBatchData. An adapter is known by its slot in
// AdapterTables.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/lora.h"
#include "nn/adapter_tables.h"

namespace lorax {

// The slot of rows without an adapter.
inline constexpr int32_t kNoAdapter = -1;

// Runs of rows with one adapter. Runs of one adapter may come again, but never touch.
class AdapterSegments {
 public:
  void clear();
  void reserve(size_t runs);
  // `rows` more rows; a run that goes on is one run.
  void append(int32_t adapter, int64_t rows);

  // [runs + 1], from 0.
  const std::vector<int32_t>& boundaries() const { return boundaries_; }
  // [runs]
  const std::vector<int32_t>& indices() const { return indices_; }
  int64_t rows() const { return boundaries_.back(); }

 private:
  std::vector<int32_t> boundaries_ = {0};
  std::vector<int32_t> indices_;
};

// The adapters of the rows of a step, as the host fills them in. Allocates nothing after reserve().
class AdapterBatchMetadata {
 public:
  void reserve(int64_t rows);
  void clear();
  void append(int32_t adapter, int64_t rows);
  // Groups the rows by adapter; call it after the last append().
  void group();

  const AdapterSegments& segments() const { return segments_; }
  bool has_adapters() const { return !slots_.empty(); }
  // LoraRows of device/lora.h: rows with an adapter, grouped; where groups begin; their slots.
  const std::vector<int32_t>& rows() const { return rows_; }
  const std::vector<int32_t>& group_boundaries() const { return group_boundaries_; }
  const std::vector<int32_t>& slots() const { return slots_; }

 private:
  AdapterSegments segments_;
  std::vector<int32_t> rows_;
  std::vector<int32_t> group_boundaries_;
  std::vector<int32_t> slots_;  // ascending
};

// What a forward is handed. Views of a metadata and of the tables, both of which outlive the step.
class AdapterBatchData {
 public:
  // `rows` holds the metadata's groups on the device. Of an adapter's Medusa heads, only the first
  // `max_speculative_heads` are used. With `lora_modules` [modules] this stands for all batches
  // whose adapters change none but these modules, by low-rank factors alone: for work that is kept
  // and done again when other adapters are in the rows.
  AdapterBatchData(const AdapterBatchMetadata& metadata, const AdapterTables& tables,
                   const LoraRows& rows, int64_t max_speculative_heads,
                   const std::vector<bool>* lora_modules = nullptr)
      : metadata_(metadata),
        tables_(tables),
        rows_(rows),
        max_speculative_heads_(max_speculative_heads),
        lora_modules_(lora_modules) {}

  const LoraRows& rows() const { return rows_; }
  // Whether some adapter of the batch changes the module by low-rank factors, replaces its weight,
  // or has rows of it for some tokens.
  bool has_lora(int64_t module) const;
  bool has_replacement(int64_t module) const;
  bool has_tokens(int64_t module) const;

  // Calls function(begin, end, slot) for each run of rows; slot is null for rows without adapter.
  template <typename Function>
  void for_each_run(const Function& function) const {
    const AdapterSegments& segments = metadata_.segments();
    for (size_t run = 0; run < segments.indices().size(); ++run) {
      const int32_t adapter = segments.indices()[run];
      function(int64_t{segments.boundaries()[run]}, int64_t{segments.boundaries()[run + 1]},
               adapter == kNoAdapter ? nullptr : &tables_.slot(adapter));
    }
  }

  // Most Medusa heads of an adapter of the batch that are used; 0 without any.
  int64_t speculative_heads() const;

 private:
  const AdapterBatchMetadata& metadata_;
  const AdapterTables& tables_;
  LoraRows rows_;
  int64_t max_speculative_heads_;
  const std::vector<bool>* lora_modules_;
};

}  // namespace lorax

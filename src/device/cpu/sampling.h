// The sampling operations of the CPU device: one row of logits per job.
#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "device/sampling.h"
#include "device/tensor.h"

namespace lorax::cpu {

// Holds the scratch of all threads; one call at a time. A call allocates nothing unless it has
// longer rows than any call before it. Contracts: device/device.h.
class Sampling {
 public:
  explicit Sampling(ThreadPool& pool);
  ~Sampling();

  void row_statistics(const Tensor& logits, const Tensor& ids, RowStatistics* out);
  void edit_logits(const Tensor& logits, DeviceList<const EditedRow> rows, const LogitEdit* edits,
                   float* saved);
  void restore_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                      const LogitEdit* edits, const float* saved);
  void sample(const Tensor& logits, DeviceList<const SampledRow> rows, const Tensor& ids);
  void top_logits(const Tensor& logits, DeviceList<const TopRow> rows, TopLogit* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorax::cpu

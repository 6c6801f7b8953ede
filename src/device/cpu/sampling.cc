#include "device/cpu/sampling.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "device/cpu/row_sampler.h"
#include "device/cpu/sampling_passes.h"

namespace lorax::cpu {
namespace {

// Elements that are worth a job of their own.
constexpr int64_t kJobElements = 8192;

float edited(float logit, const LogitEdit& edit, const EditedRow& row) {
  const Watermark& mark = row.watermark;
  const float gain = is_green(mark.key, mark.share, edit.id) ? mark.delta : 0.0f;
  float x = logit + gain;
  if (edit.seen != 0) x = x > 0.0f ? x / row.repetition_penalty : x * row.repetition_penalty;
  x -= static_cast<float>(edit.count) * row.frequency_penalty;
  if (edit.count > 0) x -= row.presence_penalty;
  return std::min(x + edit.bias - gain, std::numeric_limits<float>::max());
}

}  // namespace

struct Sampling::Impl {
  explicit Impl(ThreadPool& thread_pool)
      : pool(thread_pool), samplers(static_cast<size_t>(thread_pool.size())) {}

  // Calls function(row, worker) for all rows, several short ones per job.
  template <typename Function>
  void for_rows(int64_t rows, int64_t elements, const Function& function) {
    const int64_t group = std::max<int64_t>(1, kJobElements / std::max<int64_t>(1, elements));
    pool.parallel_for((rows + group - 1) / group, [&](int64_t index, int worker) {
      const int64_t end = std::min(rows, (index + 1) * group);
      for (int64_t row = index * group; row < end; ++row) function(row, worker);
    });
  }

  ThreadPool& pool;
  std::vector<RowSampler> samplers;  // of each thread
};

Sampling::Sampling(ThreadPool& pool) : impl_(std::make_unique<Impl>(pool)) {}

Sampling::~Sampling() = default;

void Sampling::row_statistics(const Tensor& logits, const Tensor& ids, RowStatistics* out) {
  impl_->for_rows(logits.dim(0), logits.dim(1), [&](int64_t row, int) {
    out[row] = cpu::row_statistics(logits.as<float>() + row * logits.stride(0), logits.dim(1));
    ids.as<int32_t>()[row] = out[row].argmax;
  });
}

void Sampling::edit_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                           const LogitEdit* edits, float* saved) {
  impl_->pool.parallel_for(rows.size, [&](int64_t index, int) {
    const EditedRow& row = rows.data[index];
    float* x = logits.as<float>() + row.row * logits.stride(0);
    for (int32_t i = row.begin; i < row.end; ++i) {
      saved[i] = x[edits[i].id];
      x[edits[i].id] = edited(saved[i], edits[i], row);
    }
  });
}

void Sampling::restore_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                              const LogitEdit* edits, const float* saved) {
  impl_->pool.parallel_for(rows.size, [&](int64_t index, int) {
    const EditedRow& row = rows.data[index];
    float* x = logits.as<float>() + row.row * logits.stride(0);
    for (int32_t i = row.begin; i < row.end; ++i) x[edits[i].id] = saved[i];
  });
}

void Sampling::sample(const Tensor& logits, DeviceList<const SampledRow> rows, const Tensor& ids) {
  impl_->for_rows(rows.size, logits.dim(1), [&](int64_t index, int worker) {
    const SampledRow& row = rows.data[index];
    ids.as<int32_t>()[row.row] = impl_->samplers[static_cast<size_t>(worker)].sample(
        logits.as<float>() + row.row * logits.stride(0), logits.dim(1), row);
  });
}

void Sampling::top_logits(const Tensor& logits, DeviceList<const TopRow> rows, TopLogit* out) {
  impl_->for_rows(rows.size, logits.dim(1), [&](int64_t index, int worker) {
    const TopRow& row = rows.data[index];
    impl_->samplers[static_cast<size_t>(worker)].top(
        logits.as<float>() + row.row * logits.stride(0), logits.dim(1), row.count,
        out + row.offset);
  });
}

}  // namespace lorax::cpu

#include "device/cpu/cpu_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>

#include "base/core_count.h"
#include "base/memory_info.h"
#include "device/cpu/elementwise.h"
#include "device/cpu/kernel_level.h"
#include "device/cpu/memory.h"
#include "device/factory/factories.h"
#include "device/instruction_set.h"

namespace lorax::cpu {
namespace {

// Elements that are worth a job of their own (some microseconds) where they are just read and
// written, and where each costs a tanh.
constexpr int64_t kPlainElements = 8192;
constexpr int64_t kTanhElements = 2048;
constexpr int64_t kCopyBytes = int64_t{1} << 20;

int64_t divide_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// Copies [heads, d] from `from` to `to`; each head is dense.
void copy_heads(const Tensor& from, int64_t row, char* to) {
  const int64_t size = static_cast<int64_t>(size_of(from.dtype));
  const int64_t head_bytes = from.dim(2) * size;
  const char* source = static_cast<const char*>(from.data) + row * from.stride(0) * size;
  for (int64_t head = 0; head < from.dim(1); ++head) {
    std::memcpy(to + head * head_bytes, source + head * from.stride(1) * size,
                static_cast<size_t>(head_bytes));
  }
}

}  // namespace

template <typename Function>
void CpuDevice::for_rows(int64_t rows, int64_t row_elements, const Function& function) {
  const int64_t group = std::max<int64_t>(1, kPlainElements / std::max<int64_t>(1, row_elements));
  pool_.parallel_for(divide_up(rows, group), [&](int64_t index, int) {
    const int64_t end = std::min(rows, (index + 1) * group);
    for (int64_t row = index * group; row < end; ++row) function(row);
  });
}

std::string CpuDevice::describe() const {
  return fmt::format("CPU, {}, {} thread{}", instruction_set(), pool_.size(),
                     pool_.size() == 1 ? "" : "s");
}

uint64_t CpuDevice::total_memory() const { return total_memory_bytes(); }

uint64_t CpuDevice::available_memory() const { return available_memory_bytes(); }

void* CpuDevice::allocate(size_t bytes) { return cpu::allocate(bytes); }

void CpuDevice::deallocate(void* data, size_t bytes) { cpu::deallocate(data, bytes); }

void CpuDevice::copy_from_host(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void CpuDevice::copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void CpuDevice::copy(void* to, const void* from, size_t bytes) {
  const int64_t pieces = divide_up(static_cast<int64_t>(bytes), kCopyBytes);
  pool_.parallel_for(pieces, [&](int64_t piece, int) {
    const size_t begin = static_cast<size_t>(piece * kCopyBytes);
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                std::min(static_cast<size_t>(kCopyBytes), bytes - begin));
  });
}

void CpuDevice::embedding(const Tensor& ids, const Tensor& table, float scale, const Tensor& out) {
  for_rows(out.dim(0), out.dim(1),
           [&](int64_t row) { cpu::embedding(ids, table, scale, out, row); });
}

void CpuDevice::token_embedding(const Tensor& ids, const Tensor& tokens, const Tensor& rows,
                                float scale, const Tensor& out) {
  const std::span<const int32_t> known(tokens.as<int32_t>(), static_cast<size_t>(tokens.dim(0)));
  for_rows(out.dim(0), out.dim(1), [&](int64_t row) {
    const auto found = std::ranges::lower_bound(known, ids.as<int32_t>()[row]);
    if (found == known.end() || *found != ids.as<int32_t>()[row]) return;
    int32_t index = static_cast<int32_t>(found - known.begin());
    cpu::embedding(Tensor(&index, DType::kInt32, {1}), rows, scale, out.slice(0, row, row + 1), 0);
  });
}

void CpuDevice::fill_in_ids(const Tensor& ids, const Tensor& from) {
  const int32_t* chosen = from.as<int32_t>();
  for (int32_t& id : std::span(ids.as<int32_t>(), static_cast<size_t>(ids.numel()))) {
    if (id < 0) id = std::max(chosen[-1 - id], 0);
  }
}

void CpuDevice::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  for_rows(x.dim(0), x.dim(1), [&](int64_t row) { cpu::rms_norm(x, weight, eps, out, row); });
}

void CpuDevice::rms_norm_add(const Tensor& x, const Tensor& weight, float eps,
                             const Tensor& residual) {
  for_rows(x.dim(0), x.dim(1),
           [&](int64_t row) { cpu::rms_norm_add(x, weight, eps, residual, row); });
}

void CpuDevice::linear(const Tensor& x, const Tensor& weight, const Tensor& out) {
  matmul_(x, weight, out);
}

void CpuDevice::lora(const Tensor& x, LoraTargets targets, const LoraRows& rows,
                     const Tensor& out) {
  lora_.linear(x, targets, rows, out);
}

void CpuDevice::lora_embedding(const Tensor& ids, float multiplier, int64_t module,
                               const LoraRows& rows, const Tensor& out) {
  lora_.embedding(ids, multiplier, module, rows, out);
}

void CpuDevice::add_silu(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out) {
  for_rows(out.dim(0), out.dim(1), [&](int64_t row) { cpu::add_silu(x, h, bias, out, row); });
}

void CpuDevice::rotary(const Tensor& x, const Tensor& positions, const Tensor& cos,
                       const Tensor& sin) {
  for_rows(x.dim(0), x.dim(1) * x.dim(2),
           [&](int64_t row) { cpu::rotary(x, positions, cos, sin, row); });
}

void CpuDevice::store_kv(const Tensor& k, const Tensor& v, const Tensor& slots, const PagedKv& kv) {
  const int64_t row_elements = k.dim(1) * k.dim(2);
  const int64_t row_bytes = row_elements * static_cast<int64_t>(size_of(k.dtype));
  for_rows(k.dim(0), row_elements, [&](int64_t row) {
    const int64_t slot = slots.as<int64_t>()[row];
    if (slot < 0) return;
    copy_heads(k, row, static_cast<char*>(kv.key.data) + slot * row_bytes);
    copy_heads(v, row, static_cast<char*>(kv.value.data) + slot * row_bytes);
  });
}

void CpuDevice::attention(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                          const AttentionOptions& options, const Tensor& out) {
  attention_(q, kv, batch, options, out);
}

void CpuDevice::gelu_tanh_mul(const Tensor& gate_up, const Tensor& out) {
  // Pieces of columns, so that one row (a decode step) too is spread over the threads.
  const int64_t columns = out.dim(1);
  const int64_t pieces = divide_up(columns, kTanhElements);
  pool_.parallel_for(out.dim(0) * pieces, [&](int64_t index, int) {
    const int64_t begin = index % pieces * kTanhElements;
    cpu::gelu_tanh_mul(gate_up, out, index / pieces, begin,
                       std::min(columns, begin + kTanhElements));
  });
}

void CpuDevice::softcap(const Tensor& x, float cap) {
  const int64_t n = x.numel();
  pool_.parallel_for(divide_up(n, kTanhElements), [&](int64_t index, int) {
    cpu::softcap(x, cap, index * kTanhElements, std::min(n, (index + 1) * kTanhElements));
  });
}

void CpuDevice::gather_rows(const Tensor& x, const Tensor& indices, const Tensor& out) {
  const size_t row_bytes = static_cast<size_t>(x.dim(1)) * size_of(x.dtype);
  for_rows(out.dim(0), out.dim(1), [&](int64_t row) {
    const Tensor from = x.slice(0, indices.as<int32_t>()[row], indices.as<int32_t>()[row] + 1);
    std::memcpy(out.slice(0, row, row + 1).data, from.data, row_bytes);
  });
}

void CpuDevice::scatter_columns(const Tensor& from, const Tensor& columns, const Tensor& out) {
  const int32_t* to = columns.as<int32_t>();
  for_rows(from.dim(0), from.dim(1), [&](int64_t row) {
    const float* values = from.as<float>() + row * from.stride(0);
    for (int64_t i = 0; i < from.dim(1); ++i) {
      out.as<float>()[row * out.stride(0) + to[i]] = values[i];
    }
  });
}

void CpuDevice::row_statistics(const Tensor& logits, const Tensor& ids, RowStatistics* out) {
  sampling_.row_statistics(logits, ids, out);
}

void CpuDevice::edit_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                            const LogitEdit* edits, float* saved) {
  sampling_.edit_logits(logits, rows, edits, saved);
}

void CpuDevice::restore_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                               const LogitEdit* edits, const float* saved) {
  sampling_.restore_logits(logits, rows, edits, saved);
}

void CpuDevice::sample(const Tensor& logits, DeviceList<const SampledRow> rows, const Tensor& ids) {
  sampling_.sample(logits, rows, ids);
}

void CpuDevice::top_logits(const Tensor& logits, DeviceList<const TopRow> rows, TopLogit* out) {
  sampling_.top_logits(logits, rows, out);
}

void CpuDevice::gather_logits(const Tensor& logits, const Tensor& ids, const Tensor& out) {
  for (int64_t row = 0; row < logits.dim(0); ++row) {
    const int32_t id = ids.as<int32_t>()[row];
    out.as<float>()[row] = id < 0 ? std::numeric_limits<float>::quiet_NaN()
                                  : logits.as<float>()[row * logits.stride(0) + id];
  }
}

}  // namespace lorax::cpu

namespace lorax {

std::unique_ptr<Device> make_cpu_device(int threads) {
  cpu::choose_instruction_set();
  return std::make_unique<cpu::CpuDevice>(threads > 0 ? threads : usable_cores());
}

}  // namespace lorax

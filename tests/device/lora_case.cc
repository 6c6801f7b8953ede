#include "lora_case.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace lorax::testing {
namespace {

size_t count(int64_t n) { return static_cast<size_t>(n); }

// [m, rank] in panels of columns.
Values in_panels(const Values& b, int64_t m, int64_t rank) {
  Values panels(count(lora_panels(m) * rank * kLoraPanel), 0.0);
  for (int64_t j = 0; j < m; ++j) {
    for (int64_t k = 0; k < rank; ++k) {
      panels[count((j / kLoraPanel * rank + k) * kLoraPanel + j % kLoraPanel)] =
          b[count(j * rank + k)];
    }
  }
  return panels;
}

Values transposed(const Values& values, int64_t rows, int64_t columns) {
  Values out(values.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) out[count(j * rows + i)] = values[count(i * columns + j)];
  }
  return out;
}

}  // namespace

LoraCase::LoraCase(Device& device, DType dtype, int64_t inputs, const std::vector<Module>& modules,
                   const std::vector<std::vector<int64_t>>& ranks, uint32_t seed)
    : device_(device), dtype_(dtype), inputs_(inputs), modules_(modules), random_(seed) {
  std::vector<LoraEntry> entries;
  for (size_t slot = 0; slot < ranks.size(); ++slot) {
    factors_.emplace_back(modules.size());
    for (size_t module = 0; module < modules.size(); ++module) {
      entries.push_back(
          make_entry(ranks[slot][module], modules[module], slot, factors_[slot][module]));
    }
  }
  const size_t bytes = entries.size() * sizeof(LoraEntry);
  entries_ = Buffer(device, bytes);
  device.copy_from_host(entries_.data(), entries.data(), bytes);
  device.synchronize();
}

const void* LoraCase::upload(const Values& values, DType dtype) {
  memory_.emplace_back(device_, dtype,
                       std::initializer_list<int64_t>{static_cast<int64_t>(values.size())}, values);
  return memory_.back().tensor().data;
}

LoraEntry LoraCase::make_entry(int64_t rank, const Module& module, size_t slot,
                               reference::LowRank& factors) {
  if (rank == 0) return {};
  const double size = 1.0 / std::sqrt(static_cast<double>(module.embedding ? rank : inputs_));
  factors.a = random_values(random_, dtype_, count(rank * inputs_), size);
  factors.b = random_values(random_, dtype_, count(module.columns * rank),
                            1.0 / std::sqrt(static_cast<double>(rank)));
  for (int64_t k = 0; k < rank && module.spread > 0; ++k) {
    const double power = std::exp2(k % (2 * module.spread + 1) - module.spread);
    for (int64_t i = 0; i < inputs_; ++i) {
      double& a = factors.a[count(k * inputs_ + i)];
      a = rounded(a * power, dtype_);
    }
    for (int64_t j = 0; j < module.columns; ++j) {
      double& b = factors.b[count(j * rank + k)];
      b = rounded(b / power, dtype_);
    }
  }
  factors.scale = 0.25 + 0.5 * static_cast<double>(slot);
  LoraEntry entry;
  entry.rank = static_cast<int32_t>(rank);
  entry.scale = static_cast<float>(factors.scale);
  entry.a = upload(module.embedding ? transposed(factors.a, rank, inputs_) : factors.a, dtype_);
  entry.b = upload(in_panels(factors.b, module.columns, rank), dtype_);
  if (slot % 2 == 1) {
    factors.gain = random_values(random_, DType::kFloat32, count(module.columns));
    entry.gain = static_cast<const float*>(upload(factors.gain, DType::kFloat32));
  }
  if (slot % 3 == 2 && !module.embedding) {
    factors.bias = random_values(random_, DType::kFloat32, count(module.columns));
    entry.bias = static_cast<const float*>(upload(factors.bias, DType::kFloat32));
  }
  return entry;
}

LoraRows LoraCase::rows(const std::vector<int>& adapters) {
  const std::set<int> slots(adapters.begin(), adapters.end());
  Values rows, segments = {0.0}, used;
  for (int slot : slots) {
    if (slot < 0) continue;
    for (size_t row = 0; row < adapters.size(); ++row) {
      if (adapters[row] == slot) rows.push_back(static_cast<double>(row));
    }
    segments.push_back(static_cast<double>(rows.size()));
    used.push_back(slot);
  }
  const auto upload_integers = [&](const Values& values) {
    memory_.emplace_back(device_, DType::kInt32,
                         std::initializer_list<int64_t>{static_cast<int64_t>(values.size())},
                         values);
    return memory_.back().tensor();
  };
  LoraRows result;
  result.rows = upload_integers(rows);
  result.segments = upload_integers(segments);
  result.slots = upload_integers(used);
  result.table = {static_cast<const LoraEntry*>(entries_.data()),
                  static_cast<int64_t>(modules_.size()), dtype_};
  return result;
}

std::vector<LoraTarget> LoraCase::targets() const {
  std::vector<LoraTarget> targets;
  int64_t column = 0;
  for (size_t module = 0; module < modules_.size(); ++module) {
    targets.push_back({static_cast<int64_t>(module), column, modules_[module].columns});
    column += modules_[module].columns;
  }
  return targets;
}

}  // namespace lorax::testing

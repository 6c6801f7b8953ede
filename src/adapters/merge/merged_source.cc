#include "adapters/merge/merged_source.h"

#include <algorithm>

#include "adapters/peft/dora.h"
#include "base/check.h"
#include "base/error.h"

namespace lorax {
namespace {

// [rows, columns] -> [columns, rows].
std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t columns) {
  std::vector<float> out(values.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      out[static_cast<size_t>(column * rows + row)] =
          values[static_cast<size_t>(row * columns + column)];
    }
  }
  return out;
}

}  // namespace

MergedSource::MergedSource(const TensorSource& checkpoint, const Adapter& adapter,
                           std::span<const AdapterModule> modules, const DeviceBaseWeights& base)
    : checkpoint_(checkpoint) {
  for (size_t i = 0; i < modules.size(); ++i) {
    const AdapterModule& module = modules[i];
    const std::string tensor = module.name + ".weight";
    if (module.kind == AdapterModule::Kind::kEmbedding) table_ = tensor;
    if (module.name.ends_with("lm_head")) head_ = tensor;
    const auto lora = adapter.lora.find(i);
    const auto replaced = adapter.replaced.find(i);
    const auto tokens = adapter.tokens.find(i);
    if (lora == adapter.lora.end() && replaced == adapter.replaced.end() &&
        tokens == adapter.tokens.end()) {
      continue;
    }
    Change& change = changes_[tensor];
    change.module = &module;
    if (replaced != adapter.replaced.end()) change.replacement = &replaced->second;
    if (tokens != adapter.tokens.end()) change.tokens = &tokens->second;
    if (lora == adapter.lora.end()) continue;
    const LoraWeights& weights = lora->second;
    if (weights.bias) fail("{}: a bias of B cannot be merged into a weight", module.name);
    change.has_lora = true;
    if (module.kind == AdapterModule::Kind::kEmbedding) {
      change.left = transposed(weights.a.floats(), weights.rank, module.in);
      change.right = transposed(weights.b.floats(), module.out, weights.rank);
    } else {
      change.left = weights.b.floats();
      change.right = weights.a.floats();
    }
    for (float& value : change.left) value *= weights.scale;
    if (!weights.magnitude) continue;
    change.gain = dora_gain(weights, module, change.replacement, [&](int64_t first, int64_t count) {
      return base.rows(i, first, count);
    });
  }
}

bool MergedSource::contains(const std::string& name) const {
  return name == head_ || checkpoint_.contains(name);
}

const std::string& MergedSource::base_name(const std::string& name) const {
  return name == head_ && !checkpoint_.contains(name) ? table_ : name;
}

void MergedSource::check(const std::string& name, std::span<const int64_t> shape) const {
  checkpoint_.check(base_name(name), shape);
}

std::vector<std::string> MergedSource::names() const { return checkpoint_.names(); }

void MergedSource::read(const std::string& name, int64_t first, int64_t count, DType dtype,
                        void* to) const {
  const auto change = changes_.find(name);
  if (change == changes_.end()) {
    return checkpoint_.read(base_name(name), first, count, dtype, to);
  }
  std::vector<float> values(static_cast<size_t>(count));
  if (const HostTensor* own = change->second.replacement) {
    convert(own->data.get() + first * static_cast<int64_t>(size_of(own->dtype)), own->dtype,
            values.data(), DType::kFloat32, values.size());
  } else {
    checkpoint_.read(base_name(name), first, count, DType::kFloat32, values.data());
  }
  if (change->second.tokens != nullptr) put_tokens(change->second, first, values);
  if (change->second.has_lora) apply(change->second, first, values);
  convert(values.data(), DType::kFloat32, to, dtype, values.size());
}

void MergedSource::put_tokens(const Change& change, int64_t first, std::span<float> values) {
  const std::vector<float> rows = change.tokens->rows.floats();
  const int64_t columns = change.tokens->rows.shape[1];
  const int64_t end = first + static_cast<int64_t>(values.size());
  for (size_t i = 0; i < change.tokens->ids.size(); ++i) {
    const int64_t row = change.tokens->ids[i] * columns;
    for (int64_t at = std::max(first, row); at < std::min(end, row + columns); ++at) {
      values[static_cast<size_t>(at - first)] =
          rows[i * static_cast<size_t>(columns) + static_cast<size_t>(at - row)];
    }
  }
}

// The values are a part of the matrix, which may begin and end within rows.
void MergedSource::apply(const Change& change, int64_t first, std::span<float> values) const {
  const bool is_embedding = change.module->kind == AdapterModule::Kind::kEmbedding;
  const int64_t columns = is_embedding ? change.module->out : change.module->in;
  const int64_t rank = static_cast<int64_t>(change.right.size()) / columns;
  const int64_t end = first + static_cast<int64_t>(values.size());
  for (int64_t at = first; at < end;) {
    const int64_t row = at / columns;
    const int64_t row_end = std::min(end, (row + 1) * columns);
    const int64_t column = at - row * columns;
    float* out = values.data() + (at - first);
    for (int64_t k = 0; k < rank; ++k) {
      const float factor = change.left[static_cast<size_t>(row * rank + k)];
      const float* right = change.right.data() + k * columns + column;
      for (int64_t i = 0; i < row_end - at; ++i) out[i] += factor * right[i];
    }
    for (int64_t i = 0; i < row_end - at && !change.gain.empty(); ++i) {
      out[i] *= change.gain[static_cast<size_t>(is_embedding ? column + i : row)];
    }
    at = row_end;
  }
}

}  // namespace lorax

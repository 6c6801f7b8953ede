#include "adapters/store/packed_adapter.h"

#include <algorithm>

#include "adapters/peft/dora.h"
#include "base/check.h"

namespace lorax {
namespace {

// Hands out aligned parts of a block one after the other.
class Parts {
 public:
  int64_t take(uint64_t bytes) {
    constexpr uint64_t kAlignment = 64;
    const uint64_t at = end_;
    end_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return static_cast<int64_t>(at);
  }
  uint64_t end() const { return end_; }

 private:
  uint64_t end_ = 0;
};

uint64_t elements_of(std::span<const int64_t> shape) {
  uint64_t elements = 1;
  for (int64_t size : shape) elements *= static_cast<uint64_t>(size);
  return elements;
}

// [rows, columns] -> [columns, rows].
template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T* to) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      to[column * rows + row] = from[row * columns + column];
    }
  }
}

// B [m, rank] into panels [ceil(m / kLoraPanel), rank, kLoraPanel].
template <typename T>
void fill_panels(const T* b, int64_t m, int64_t rank, T* panels) {
  std::fill_n(panels, lora_panels(m) * rank * kLoraPanel, T{});
  for (int64_t j = 0; j < m; ++j) {
    T* panel = panels + j / kLoraPanel * rank * kLoraPanel + j % kLoraPanel;
    for (int64_t k = 0; k < rank; ++k) panel[k * kLoraPanel] = b[j * rank + k];
  }
}

FactorForm form_of(const AdapterPrecision& precision, size_t module) {
  const auto found = precision.find(module);
  return found == precision.end() ? FactorForm() : found->second.form;
}

template <typename Function>
void visit_words(DType dtype, const Function& function) {
  if (dtype == DType::kFloat32) {
    function(uint32_t{});
  } else {
    function(uint16_t{});
  }
}

}  // namespace

PackedAdapter::Layout PackedAdapter::make_layout(const Adapter& adapter,
                                                 std::span<const AdapterModule> modules,
                                                 const AdapterPrecision& precision, DType dtype) {
  Layout layout;
  Parts parts;
  const uint64_t element = size_of(dtype);
  for (const auto& [index, weights] : adapter.lora) {
    const AdapterModule& module = modules[index];
    const FactorForm form = form_of(precision, index);
    const uint64_t rank = static_cast<uint64_t>(form.parts * weights.rank);
    LoraPlace& place = layout.lora[index];
    place.rank = static_cast<int32_t>(rank);
    place.scale = scale_in(form, weights.scale);
    place.a = parts.take(rank * static_cast<uint64_t>(module.in) * element);
    place.b =
        parts.take(rank * static_cast<uint64_t>(lora_panels(module.out) * kLoraPanel) * element);
    const uint64_t vector_bytes = static_cast<uint64_t>(module.out) * sizeof(float);
    if (weights.bias) place.bias = parts.take(vector_bytes);
    if (weights.magnitude) place.gain = parts.take(vector_bytes);
  }
  const auto add_tensor = [&](const HostTensor& tensor, DType to) {
    return TensorPlace{parts.take(elements_of(tensor.shape) * size_of(to)), to, tensor.shape};
  };
  for (const auto& [index, tensor] : adapter.replaced) {
    const bool is_norm = modules[index].kind == AdapterModule::Kind::kNorm;
    layout.replaced[index] = add_tensor(tensor, is_norm ? DType::kFloat32 : dtype);
  }
  for (const auto& [index, own] : adapter.tokens) {
    auto& place = layout.tokens[index];
    place.tokens.offset = parts.take(own.ids.size() * sizeof(int32_t));
    place.tokens.dtype = DType::kInt32;
    place.tokens.shape.assign(1, static_cast<int64_t>(own.ids.size()));
    place.rows = add_tensor(own.rows, dtype);
  }
  for (const MedusaHeadWeights& head :
       adapter.medusa ? adapter.medusa->heads : std::vector<MedusaHeadWeights>()) {
    HeadPlace& place = layout.medusa.emplace_back();
    for (const MedusaHeadWeights::Block& block : head.blocks) {
      const TensorPlace weight = add_tensor(block.weight, dtype);
      place.blocks.emplace_back(weight, add_tensor(block.bias, dtype));
    }
    if (head.output) place.output = add_tensor(head.output, dtype);
  }
  layout.bytes = parts.end();
  return layout;
}

uint64_t PackedAdapter::bytes_for(const Adapter& adapter, std::span<const AdapterModule> modules,
                                  const AdapterPrecision& precision, DType dtype) {
  return make_layout(adapter, modules, precision, dtype).bytes;
}

PackedAdapter::PackedAdapter(const Adapter& adapter, std::span<const AdapterModule> modules,
                             const DeviceBaseWeights& base, const AdapterPrecision& precision,
                             DType dtype, Device& memory)
    : dtype_(dtype),
      modules_(modules.size()),
      invocation_(adapter.config ? adapter.config->alora_invocation : std::vector<int32_t>()),
      layout_(make_layout(adapter, modules, precision, dtype)),
      block_(memory, layout_.bytes) {
  for (const auto& [index, place] : layout_.lora) {
    const LoraWeights& weights = adapter.lora.at(index);
    write_lora(weights, modules[index], form_of(precision, index), place);
    if (!weights.magnitude) continue;
    const auto own = adapter.replaced.find(index);
    const std::vector<float> gain =
        dora_gain(weights, modules[index], own != adapter.replaced.end() ? &own->second : nullptr,
                  [&, module = index](int64_t first, int64_t count) {
                    return base.rows(module, first, count);
                  });
    std::copy(gain.begin(), gain.end(), reinterpret_cast<float*>(block_at(place.gain)));
  }
  for (const auto& [index, place] : layout_.replaced) {
    write_tensor(adapter.replaced.at(index), place);
    if (modules[index].kind != AdapterModule::Kind::kNorm) continue;
    float* values = reinterpret_cast<float*>(block_at(place.offset));
    for (int64_t i = 0; i < modules[index].out; ++i) values[i] += 1.0f;
  }
  for (const auto& [index, place] : layout_.tokens) {
    const TokenWeights& own = adapter.tokens.at(index);
    std::ranges::copy(own.ids, reinterpret_cast<int32_t*>(block_at(place.tokens.offset)));
    write_tensor(own.rows, place.rows);
  }
  for (size_t i = 0; i < layout_.medusa.size(); ++i) {
    const MedusaHeadWeights& head = adapter.medusa->heads[i];
    const HeadPlace& place = layout_.medusa[i];
    for (size_t j = 0; j < place.blocks.size(); ++j) {
      write_tensor(head.blocks[j].weight, place.blocks[j].first);
      write_tensor(head.blocks[j].bias, place.blocks[j].second);
    }
    if (head.output) write_tensor(head.output, place.output);
  }
}

void PackedAdapter::write_tensor(const HostTensor& tensor, const TensorPlace& place) {
  tensor.copy_to(place.dtype, block_at(place.offset));
}

void PackedAdapter::write_lora(const LoraWeights& weights, const AdapterModule& module,
                               const FactorForm& form, const LoraPlace& place) {
  if (form == FactorForm()) {
    write_factors(weights, module, place);
  } else {
    write_factors(in_form(weights, form, dtype_), module, place);
  }
  if (!weights.bias) return;
  float* bias = reinterpret_cast<float*>(block_at(place.bias));
  weights.bias.copy_to(DType::kFloat32, bias);
  for (int64_t i = 0; i < module.out; ++i) bias[i] *= weights.scale;
}

void PackedAdapter::write_factors(const LoraWeights& weights, const AdapterModule& module,
                                  const LoraPlace& place) {
  if (module.kind == AdapterModule::Kind::kEmbedding) {
    std::vector<char> a(static_cast<size_t>(weights.a.elements()) * size_of(dtype_));
    weights.a.copy_to(dtype_, a.data());
    visit_words(dtype_, [&]<typename T>(T) {
      transpose(reinterpret_cast<const T*>(a.data()), weights.rank, module.in,
                reinterpret_cast<T*>(block_at(place.a)));
    });
  } else {
    weights.a.copy_to(dtype_, block_at(place.a));
  }
  std::vector<char> b(static_cast<size_t>(weights.b.elements()) * size_of(dtype_));
  weights.b.copy_to(dtype_, b.data());
  visit_words(dtype_, [&]<typename T>(T) {
    fill_panels(reinterpret_cast<const T*>(b.data()), module.out, weights.rank,
                reinterpret_cast<T*>(block_at(place.b)));
  });
}

Tensor PackedAdapter::tensor_at(const char* block, const TensorPlace& place) {
  void* data = const_cast<char*>(block) + place.offset;
  if (place.shape.size() == 1) return Tensor(data, place.dtype, {place.shape[0]});
  return Tensor(data, place.dtype, {place.shape[0], place.shape[1]});
}

AdapterSlot PackedAdapter::at(const void* block) const {
  const char* base = static_cast<const char*>(block);
  AdapterSlot slot;
  slot.lora.resize(modules_);
  for (const auto& [index, place] : layout_.lora) {
    const auto floats = [&](int64_t offset) {
      return offset < 0 ? nullptr : reinterpret_cast<const float*>(base + offset);
    };
    slot.lora[index] = {.a = base + place.a,
                        .b = base + place.b,
                        .bias = floats(place.bias),
                        .gain = floats(place.gain),
                        .rank = place.rank,
                        .scale = place.scale};
  }
  for (const auto& [index, place] : layout_.replaced) {
    slot.replacements.emplace_back(static_cast<int64_t>(index), tensor_at(base, place));
  }
  for (const auto& [index, place] : layout_.tokens) {
    slot.tokens.push_back({.module = static_cast<int64_t>(index),
                           .tokens = tensor_at(base, place.tokens),
                           .rows = tensor_at(base, place.rows)});
  }
  for (const HeadPlace& place : layout_.medusa) {
    MedusaHead& head = slot.medusa.emplace_back();
    for (const auto& [weight, bias] : place.blocks) {
      head.blocks.push_back({tensor_at(base, weight), tensor_at(base, bias)});
    }
    if (!place.output.shape.empty()) head.output = tensor_at(base, place.output);
  }
  return slot;
}

}  // namespace lorax

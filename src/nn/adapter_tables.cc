#include "nn/adapter_tables.h"

namespace lorax {

AdapterTables::AdapterTables(DeviceMemory& device, int64_t modules, int64_t slots, DType dtype)
    : device_(device),
      modules_(modules),
      dtype_(dtype),
      slots_(static_cast<size_t>(slots)),
      buffer_(device, static_cast<size_t>(slots * modules) * sizeof(LoraEntry)) {
  for (int64_t slot = 0; slot < slots; ++slot) clear(static_cast<int32_t>(slot));
}

void AdapterTables::set(int32_t slot, AdapterSlot content) {
  LORAX_CHECK(0 <= slot && slot < slots() && static_cast<int64_t>(content.lora.size()) == modules_);
  const size_t bytes = static_cast<size_t>(modules_) * sizeof(LoraEntry);
  slots_[static_cast<size_t>(slot)] = std::move(content);
  device_.upload(static_cast<char*>(buffer_.data()) + static_cast<size_t>(slot) * bytes,
                 slots_[static_cast<size_t>(slot)].lora.data(), bytes);
}

void AdapterTables::clear(int32_t slot) {
  // Without memory: adapters give their slots back as they are destroyed.
  AdapterSlot empty;
  empty.lora = std::move(slots_[static_cast<size_t>(slot)].lora);
  empty.lora.assign(static_cast<size_t>(modules_), LoraEntry{});
  set(slot, std::move(empty));
}

}  // namespace lorax

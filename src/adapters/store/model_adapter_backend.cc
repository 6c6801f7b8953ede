#include "adapters/store/model_adapter_backend.h"

#include <algorithm>
#include <utility>

#include "adapters/peft/adapter_reader.h"
#include "base/error.h"
#include "device/factory/device_factory.h"

namespace lorax {
namespace {

// Room for what comes with an adapter beside its tensors.
constexpr uint64_t kOverhead = uint64_t{1} << 20;

class ModelHostAdapter final : public HostAdapter {
 public:
  ModelHostAdapter(std::string digest, std::unique_ptr<PackedAdapter> packed, uint64_t device_bytes)
      : digest_(std::move(digest)), packed_(std::move(packed)), device_bytes_(device_bytes) {}

  const std::string& digest() const override { return digest_; }
  uint64_t host_bytes() const override { return packed_->bytes(); }
  uint64_t device_bytes() const override { return device_bytes_; }
  const PackedAdapter& packed() const { return *packed_; }

 private:
  std::string digest_;
  std::unique_ptr<PackedAdapter> packed_;
  uint64_t device_bytes_;
};

}  // namespace

ModelAdapter::ModelAdapter(AdapterTables& tables, int slot, const PackedAdapter& packed,
                           PoolBlock block)
    : tables_(tables), slot_(slot), block_(std::move(block)), invocation_(packed.invocation()) {
  AdapterSlot content = packed.at(block_.data() != nullptr ? block_.data() : packed.data());
  speculative_heads_ = static_cast<int64_t>(content.medusa.size());
  tables_.set(slot_, std::move(content));
}

ModelAdapter::~ModelAdapter() { tables_.clear(slot_); }

ModelAdapterBackend::ModelAdapterBackend(Device& device, std::span<const AdapterModule> modules,
                                         AdapterTables& tables, std::string base_name, Warn warn,
                                         FileBounds bounds,
                                         std::vector<std::string> ignored_config_keys)
    : device_(device),
      modules_(modules),
      tables_(tables),
      base_name_(std::move(base_name)),
      ignored_config_keys_(std::move(ignored_config_keys)),
      warn_(std::move(warn)),
      bounds_(std::move(bounds)),
      base_weights_(device, modules) {
  if (!device.memory_is_host()) {
    host_memory_ = make_device({.name = "cpu", .threads = 1});
    pool_ = make_plain_pool(device, SIZE_MAX);
  }
}

ModelAdapterBackend::~ModelAdapterBackend() = default;

AdapterProbe ModelAdapterBackend::probe(const std::string& id) {
  AdapterProbe probe;
  uint64_t bytes = 0;
  if (const std::optional<MergeRecipe> recipe = parse_merge_id(id)) {
    // Beside its members a merged adapter is held in float32.
    for (const std::string& member : recipe->ids) {
      const AdapterFilesProbe files = probe_adapter_files(open_adapter(member, bounds_));
      probe.fingerprint += files.fingerprint;
      bytes += 3 * files.bytes;
    }
  } else {
    AdapterFilesProbe files = probe_adapter_files(open_adapter(id, bounds_));
    probe.fingerprint = std::move(files.fingerprint);
    bytes = files.bytes;
  }
  // The tensors as read, of at least two bytes a value, and packed; panels are filled up.
  const uint64_t panels = modules_.size() * uint64_t{kLoraPanel} * PeftConfig::kMaxRank;
  probe.host_bytes = bytes + bytes / 2 * size_of(tables_.dtype()) +
                     std::min(bytes * kLoraPanel, panels * size_of(tables_.dtype())) + kOverhead;
  return probe;
}

Adapter ModelAdapterBackend::read(const std::string& id) const {
  const BaseModel base = {modules_, &base_weights_, base_name_, ignored_config_keys_};
  const std::optional<MergeRecipe> recipe = parse_merge_id(id);
  if (!recipe) return read_adapter(id, base, bounds_);
  check_merge_parameters(recipe->parameters, recipe->ids.size());
  std::vector<Adapter> adapters;
  for (const std::string& member : recipe->ids) {
    adapters.push_back(read_adapter(member, base, bounds_));
  }
  std::vector<MergeMember> members;
  for (size_t i = 0; i < adapters.size(); ++i) members.push_back({&adapters[i], recipe->ids[i]});
  return merge_adapters(recipe->parameters, members, modules_);
}

std::unique_ptr<HostAdapter> ModelAdapterBackend::load(const std::string& id,
                                                       const AdapterProbe& probe) {
  const Adapter adapter = read(id);
  for (const std::string& warning : adapter.warnings) warn_(warning);
  const uint64_t packed_bytes = PackedAdapter::bytes_for(adapter, modules_, tables_.dtype());
  if (adapter.bytes() + packed_bytes > probe.host_bytes) {
    fail("{}: the adapter grew while it was read; try again", id);
  }
  const uint64_t device_bytes = is_unified() ? 0 : pool_->size_of(packed_bytes);
  return std::make_unique<ModelHostAdapter>(adapter.digest, pack(adapter), device_bytes);
}

std::unique_ptr<ResidentAdapter> ModelAdapterBackend::upload(const HostAdapter& adapter, int slot) {
  return install(static_cast<const ModelHostAdapter&>(adapter).packed(), slot);
}

std::unique_ptr<PackedAdapter> ModelAdapterBackend::pack(const Adapter& adapter) const {
  return std::make_unique<PackedAdapter>(adapter, modules_, base_weights_, tables_.dtype(),
                                         is_unified() ? device_ : *host_memory_);
}

std::unique_ptr<ModelAdapter> ModelAdapterBackend::install(const PackedAdapter& packed, int slot) {
  PoolBlock block;
  if (!is_unified()) {
    block = PoolBlock(*pool_, packed.bytes());
    device_.upload(block.data(), packed.data(), packed.bytes());
  }
  return std::make_unique<ModelAdapter>(tables_, slot, packed, std::move(block));
}

}  // namespace lorax

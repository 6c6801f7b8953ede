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
  // The tensors as read, of at least two bytes a value, and packed, in 16 bits perhaps in three
  // parts (factor_precision.h); panels are filled up.
  const uint64_t parts = tables_.dtype() == DType::kFloat32 ? 1 : 3;
  const uint64_t panels = modules_.size() * uint64_t{kLoraPanel} * PeftConfig::kMaxRank;
  probe.host_bytes = bytes + parts * (bytes / 2) * size_of(tables_.dtype()) +
                     std::min(parts * bytes * kLoraPanel, panels * size_of(tables_.dtype())) +
                     kOverhead;
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
  const AdapterPrecision precision = precision_of(adapter);
  warn_of(id, adapter, precision);
  const uint64_t packed_bytes =
      PackedAdapter::bytes_for(adapter, modules_, precision, tables_.dtype());
  if (adapter.bytes() + packed_bytes > probe.host_bytes) {
    fail("{}: the adapter grew while it was read; try again", id);
  }
  const uint64_t device_bytes = is_unified() ? 0 : pool_->size_of(packed_bytes);
  return std::make_unique<ModelHostAdapter>(adapter.digest, pack(adapter, precision), device_bytes);
}

std::unique_ptr<ResidentAdapter> ModelAdapterBackend::upload(const HostAdapter& adapter, int slot) {
  return install(static_cast<const ModelHostAdapter&>(adapter).packed(), slot);
}

std::unique_ptr<PackedAdapter> ModelAdapterBackend::pack(const Adapter& adapter) const {
  return pack(adapter, precision_of(adapter));
}

std::unique_ptr<PackedAdapter> ModelAdapterBackend::pack(const Adapter& adapter,
                                                         const AdapterPrecision& precision) const {
  return std::make_unique<PackedAdapter>(adapter, modules_, base_weights_, precision,
                                         tables_.dtype(), is_unified() ? device_ : *host_memory_);
}

AdapterPrecision ModelAdapterBackend::precision_of(const Adapter& adapter) const {
  return choose_precision(adapter, modules_, tables_.dtype(),
                          [this](size_t module) { return base_weights_.norm(module); });
}

// A merge's id is long and not for readers; its members' names are in the request.
void ModelAdapterBackend::warn_of(const std::string& id, const Adapter& adapter,
                                  const AdapterPrecision& precision) {
  const std::string name = parse_merge_id(id) ? "a merged adapter" : id;
  for (const auto& [index, module] : precision) {
    if (!module.needs_three_parts) continue;
    const int64_t rank = adapter.lora.at(index).rank;
    const std::string cause = fmt::format(
        "{}: {} changes the product of A and B by {:.2g} of itself, more than Hugging Face's "
        "rounding would ({} first)",
        name, name_of(tables_.dtype()), module.rounding.relative(), modules_[index].name);
    if (module.form.parts > 1) {
      std::call_once(three_parts_said_, [&] {
        warn_(cause +
              "; such products are kept in three parts, which take three times the memory "
              "(said once)");
      });
    } else {
      std::call_once(rank_limit_said_, [&] {
        warn_(
            fmt::format("{}, and three parts of rank {} would exceed rank {}; such products are "
                        "rounded, results may lie farther from PEFT's (said once)",
                        cause, rank, PeftConfig::kMaxRank));
      });
    }
  }
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

#include "adapters/peft/adapter_reader.h"

#include <algorithm>
#include <utility>

#include "adapters/peft/lora_reader.h"
#include "adapters/peft/medusa_reader.h"
#include "adapters/peft/tensor_plan.h"
#include "base/check.h"
#include "formats/printable.h"
#include "formats/sha256.h"

namespace lorax {
namespace {

AdapterKind kind_of(const AdapterFiles& files) {
  if (files.medusa_text.empty()) return AdapterKind::kLora;
  return files.peft_text.empty() ? AdapterKind::kMedusa : AdapterKind::kMedusaLora;
}

void add_medusa(const AdapterFiles& files, const BaseModel& base, TensorPlan& tensors,
                Adapter& adapter) {
  const auto embedding =
      std::ranges::find(base.modules, AdapterModule::Kind::kEmbedding, &AdapterModule::kind);
  LORAX_CHECK(embedding != base.modules.end());
  const int64_t vocab_size = embedding->in, hidden_size = embedding->out;
  const std::string origin = files.origin + "/config.json";
  const MedusaConfig config = parse_medusa_config(files.medusa_text, hidden_size, vocab_size,
                                                  origin, base.ignored_config_keys);
  adapter.warnings.insert(adapter.warnings.end(), config.warnings.begin(), config.warnings.end());
  if (!base.name.empty() && !config.base_model_name_or_path.empty() &&
      config.base_model_name_or_path != base.name) {
    adapter.warnings.push_back(
        fmt::format("{}: base_model_name_or_path is \"{}\" and \"{}\" is served; the shapes fit",
                    origin, printable(config.base_model_name_or_path), printable(base.name)));
  }
  plan_medusa(config, hidden_size, vocab_size, tensors, adapter.medusa.emplace());
}

}  // namespace

Adapter read_adapter_files(const AdapterFiles& files, const BaseModel& base) {
  Adapter adapter;
  adapter.kind = kind_of(files);
  TensorPlan tensors(files.tensors, files.origin);
  LoraReader lora(base, files.origin);
  if (!files.peft_text.empty()) lora.plan(files.peft_text, tensors, adapter);
  if (!files.medusa_text.empty()) add_medusa(files, base, tensors, adapter);
  tensors.check_all_claimed();
  Sha256 digest;
  digest.add_text("lorax adapter 1");
  digest.add_text(files.peft_text);
  digest.add_text(files.medusa_text);
  tensors.read(digest);
  lora.finish(adapter);
  adapter.digest = digest.hex();
  return adapter;
}

Adapter read_adapter(const std::filesystem::path& directory, const BaseModel& base,
                     const FileBounds& bounds) {
  DirectorySnapshot snapshot(directory, bounds);
  Adapter adapter;
  try {
    adapter = read_adapter_files(snapshot.open(), base);
  } catch (...) {
    snapshot.check_unchanged();  // a file that is being written looks damaged: say which it is
    throw;
  }
  snapshot.check_unchanged();
  return adapter;
}

}  // namespace lorax

#include "adapters/peft/adapter_files.h"

#include <sys/stat.h>
#include <boost/json/value.hpp>

#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "formats/json_file.h"
#include "formats/printable.h"
#include "formats/safetensors_checkpoint.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxIndexBytes = uint64_t{64} << 20;
constexpr size_t kMaxTensorFiles = 64;
constexpr const char* kPeftName = "adapter_config.json";
constexpr const char* kMedusaName = "config.json";
constexpr const char* kLoraTensors = "adapter_model.safetensors";
constexpr const char* kLoraIndex = "adapter_model.safetensors.index.json";
constexpr const char* kMedusaTensors = "medusa_lm_head.safetensors";
// What can only be read by running code: Python's pickles.
constexpr const char* kLoraPickle = "adapter_model.bin";
constexpr const char* kMedusaPickle = "medusa_lm_head.pt";
// The kernel stamps files with a clock that ticks every 1 to 10 ms.
constexpr int64_t kClockTickNs = 20'000'000;

bool is_named(std::string_view name) {
  return name == kPeftName || name == kMedusaName || name == kLoraTensors || name == kLoraIndex ||
         name == kMedusaTensors || name == kLoraPickle || name == kMedusaPickle;
}
bool is_tensor_file(std::string_view name) { return name.ends_with(".safetensors"); }

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

// A config.json that never says the word is not even parsed: PEFT does not open it.
bool is_medusa_config(std::string_view text, std::string_view origin) {
  if (text.find("medusa_num_heads") == text.npos) return false;
  const boost::json::value value = parse_python_json(text, origin);
  return value.is_object() && value.get_object().contains("medusa_num_heads");
}

}  // namespace

Folder open_adapter(const fs::path& directory, const FileBounds& bounds) {
  try {
    return Folder::open(directory, bounds);
  } catch (const Error& error) {
    fail("{}; an adapter is a directory with adapter_config.json and adapter_model.safetensors",
         error.what());
  }
}

DirectorySnapshot::DirectorySnapshot(const fs::path& directory, const FileBounds& bounds)
    : folder_(open_adapter(directory, bounds)) {
  entries_ = list();
  int64_t newest = 0;
  for (const auto& [name, identity] : entries_) newest = std::max(newest, identity.changed_ns);
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const int64_t age = nanoseconds(now) - newest;
  if (age >= 0 && age < kClockTickNs) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(kClockTickNs - age));
    entries_ = list();
  }
}

DirectorySnapshot::Entries DirectorySnapshot::list() const {
  Entries entries;
  for (const std::string& name : folder_.names()) {
    if (!is_named(name) && !is_tensor_file(name)) continue;
    const std::optional<struct stat> status = folder_.find(name);
    // Throws why not, unless it has changed meanwhile.
    if (!status && is_named(name)) folder_.open_file(name);
    if (!status || !S_ISREG(status->st_mode)) continue;
    entries[name] = {status->st_dev, status->st_ino, static_cast<uint64_t>(status->st_size),
                     nanoseconds(status->st_mtim), nanoseconds(status->st_ctim)};
  }
  return entries;
}

AdapterFiles DirectorySnapshot::open() {
  AdapterFiles files;
  files.origin = folder_.path().string();
  if (has(kPeftName)) {
    files.peft_text = folder_.read(kPeftName, kMaxConfigBytes);
    if (files.peft_text.empty()) fail("{}/{}: is empty", files.origin, kPeftName);
  }
  if (has(kMedusaName)) {
    std::string text = folder_.read(kMedusaName, kMaxConfigBytes);
    if (is_medusa_config(text, (folder_.path() / kMedusaName).string())) {
      files.medusa_text = std::move(text);
    }
  }
  if (!has(kPeftName) && files.medusa_text.empty()) {
    fail(
        "{}: is no adapter: it has neither adapter_config.json (LoRA) nor a config.json with "
        "medusa_num_heads (Medusa)",
        files.origin);
  }
  std::vector<std::string> names;
  if (has(kPeftName)) names = lora_files();
  if (!files.medusa_text.empty() && (names.empty() || has(kMedusaTensors))) {
    for (std::string& name : medusa_files()) names.push_back(std::move(name));
  }
  if (names.size() > kMaxTensorFiles) {
    fail("{}: has more than {} safetensors files", files.origin, kMaxTensorFiles);
  }
  for (const std::string& name : names) {
    opened_.insert(name);
    files.tensors.push_back(SafetensorsFile::open(folder_.open_file(name), folder_.path() / name));
  }
  return files;
}

std::vector<std::string> DirectorySnapshot::lora_files() const {
  if (has(kLoraTensors)) return {kLoraTensors};
  if (!has(kLoraIndex)) fail_without_weights(kLoraTensors, kLoraPickle);
  std::set<std::string> shards;
  const std::string text = folder_.read(kLoraIndex, kMaxIndexBytes);
  const std::string origin = (folder_.path() / kLoraIndex).string();
  for (const auto& [tensor, file] : parse_weight_map(text, origin)) shards.insert(file);
  for (const std::string& shard : shards) {
    if (has(shard)) continue;
    if (folder_.has(shard)) folder_.open_file(shard);  // throws why not
    fail("{}: has no {}, which {} lists; download it too", folder_.path().string(),
         printable(shard), kLoraIndex);
  }
  return {shards.begin(), shards.end()};
}

std::vector<std::string> DirectorySnapshot::medusa_files() const {
  if (has(kMedusaTensors)) return {kMedusaTensors};
  std::vector<std::string> names;
  for (const auto& [name, identity] : entries_) {
    if (is_tensor_file(name)) names.push_back(name);
  }
  if (names.empty()) fail_without_weights(kMedusaTensors, kMedusaPickle);
  return names;
}

void DirectorySnapshot::fail_without_weights(std::string_view wanted,
                                             std::string_view pickle) const {
  if (has(std::string(pickle))) {
    fail(
        "{}: its weights are in {}, a pickle, which could run code; load it with PyTorch or PEFT "
        "and save it again as {}",
        folder_.path().string(), pickle, wanted);
  }
  std::string advice = "its weights are missing";
  for (const auto& [name, identity] : entries_) {
    if (!is_tensor_file(name)) continue;
    advice = fmt::format("if {} holds its weights, rename it", printable(name));
    break;
  }
  fail("{}: has no {}; {}", folder_.path().string(), wanted, advice);
}

void DirectorySnapshot::check_unchanged() const {
  Entries before = entries_, now = list();
  const auto is_foreign = [&](const auto& entry) {
    return !is_named(entry.first) && !opened_.contains(entry.first);
  };
  std::erase_if(before, is_foreign);
  std::erase_if(now, is_foreign);
  if (now == before) return;
  for (const auto& [name, identity] : before) {
    const auto found = now.find(name);
    if (found == now.end() || found->second != identity) {
      fail("{}: {} changed while the adapter was read; try again when it is whole",
           folder_.path().string(), printable(name));
    }
  }
  fail("{}: files were added while the adapter was read; try again when it is whole",
       folder_.path().string());
}

AdapterFilesProbe probe_adapter_files(const Folder& folder) {
  std::map<std::string, std::string> files;
  std::map<std::string, uint64_t> bytes;
  for (const std::string& name : folder.names()) {
    if (!is_named(name) && !is_tensor_file(name)) continue;
    const std::optional<struct stat> status = folder.find(name);
    if (!status) continue;
    const uint64_t size = S_ISREG(status->st_mode) ? static_cast<uint64_t>(status->st_size) : 0;
    files[name] =
        fmt::format("{} {} {}.{};", name, size, status->st_mtim.tv_sec, status->st_mtim.tv_nsec);
    if (is_tensor_file(name)) bytes[name] = size;
  }
  // With the one file of a LoRA's tensors there, others but the heads' count for nothing.
  if (files.contains(kPeftName) && files.contains(kLoraTensors)) {
    std::erase_if(files, [](const auto& file) { return !is_named(file.first); });
    std::erase_if(bytes, [](const auto& file) { return !is_named(file.first); });
  }
  AdapterFilesProbe probe;
  for (const auto& [name, text] : files) probe.fingerprint += text;
  for (const auto& [name, size] : bytes) probe.bytes += size;
  return probe;
}

}  // namespace lorax

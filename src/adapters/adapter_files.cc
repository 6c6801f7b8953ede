#include "adapters/adapter_files.h"

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

namespace lorax {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;
constexpr size_t kMaxTensorFiles = 64;
constexpr const char* kPeftName = "adapter_config.json";
constexpr const char* kMedusaName = "config.json";
// The kernel stamps files with a clock that ticks every 1 to 10 ms.
constexpr int64_t kClockTickNs = 20'000'000;

bool is_tensor_file(std::string_view name) { return name.ends_with(".safetensors"); }
// What can only be read by running code: Python's pickle.
bool is_pickle(std::string_view name) { return name.ends_with(".bin") || name.ends_with(".pt"); }

bool matters(std::string_view name) {
  return name == kPeftName || name == kMedusaName || is_tensor_file(name) || is_pickle(name);
}

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

bool is_medusa_config(std::string_view text, std::string_view origin) {
  const boost::json::value value = parse_json(text, origin);
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
    if (!matters(name)) continue;
    const std::optional<struct stat> status = folder_.find(name);
    if (!status) folder_.open_file(name);  // throws why not, unless it has changed meanwhile
    if (!status || !S_ISREG(status->st_mode)) continue;
    entries[name] = {status->st_dev, status->st_ino, static_cast<uint64_t>(status->st_size),
                     nanoseconds(status->st_mtim), nanoseconds(status->st_ctim)};
  }
  return entries;
}

AdapterFiles DirectorySnapshot::open() const {
  AdapterFiles files;
  files.origin = folder_.path().string();
  if (entries_.contains(kPeftName)) {
    files.peft_text = folder_.read(kPeftName, kMaxConfigBytes);
  }
  if (entries_.contains(kMedusaName)) {
    std::string text = folder_.read(kMedusaName, kMaxConfigBytes);
    if (is_medusa_config(text, (folder_.path() / kMedusaName).string()))
      files.medusa_text = std::move(text);
  }
  if (files.peft_text.empty() && files.medusa_text.empty()) {
    fail(
        "{}: is no adapter: it has neither adapter_config.json (LoRA) nor a config.json with "
        "medusa_num_heads (Medusa)",
        files.origin);
  }
  std::vector<std::string> pickles;
  for (const auto& [name, identity] : entries_) {
    if (is_pickle(name)) pickles.push_back(name);
    if (!is_tensor_file(name)) continue;
    if (files.tensors.size() == kMaxTensorFiles) {
      fail("{}: has more than {} safetensors files", files.origin, kMaxTensorFiles);
    }
    files.tensors.push_back(SafetensorsFile::open(folder_.open_file(name), folder_.path() / name));
  }
  if (files.tensors.empty() && !pickles.empty()) {
    fail(
        "{}: its weights are in {}, a pickle, which could run code; load the adapter with PEFT and "
        "save it again (save_pretrained writes adapter_model.safetensors)",
        files.origin, printable(pickles[0]));
  }
  if (files.tensors.empty()) {
    fail("{}: has no *.safetensors file; its weights are missing", files.origin);
  }
  return files;
}

void DirectorySnapshot::check_unchanged() const {
  const Entries now = list();
  if (now == entries_) return;
  for (const auto& [name, identity] : entries_) {
    const auto found = now.find(name);
    if (found == now.end() || found->second != identity) {
      fail("{}: {} changed while the adapter was read; try again when it is whole",
           folder_.path().string(), printable(name));
    }
  }
  fail("{}: files were added while the adapter was read; try again when it is whole",
       folder_.path().string());
}

}  // namespace lorax

#include "formats/safetensors_checkpoint.h"

#include <algorithm>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/check.h"
#include "base/error.h"
#include "formats/json_file.h"
#include "formats/printable.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::string_view kSingle = "model.safetensors";
constexpr uint64_t kMaxIndexBytes = uint64_t{256} << 20;
constexpr std::string_view kIndex = "model.safetensors.index.json";

// What to do about a directory that has no weights that can be read, by what it has instead.
std::string advice(const fs::path& directory) {
  std::map<std::string, std::string> first_of;  // extension -> the first name
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = printable(entry->path().filename().string());
    std::string& first = first_of[entry->path().extension().string()];
    if (first.empty() || name < first) first = name;
  }
  if (error) return fmt::format("it cannot be listed: {}", error.message());
  constexpr std::string_view kConvert = "save_pretrained(..., safe_serialization=True)";
  if (first_of.contains(".safetensors")) {
    return fmt::format("it has {}, but no index that lists it: download the whole checkpoint",
                       first_of[".safetensors"]);
  }
  for (const char* extension : {".bin", ".pt", ".pth"}) {
    if (first_of.contains(extension)) {
      return fmt::format("only safetensors can be read: convert {} with {}", first_of[extension],
                         kConvert);
    }
  }
  if (first_of.contains(".gguf")) {
    return fmt::format(
        "only safetensors can be read: download the original of {}, or load it in transformers "
        "(gguf_file=...) and convert it with {}",
        first_of[".gguf"], kConvert);
  }
  return "download the whole checkpoint, as safetensors";
}

// Whether a file of that name lies in the directory itself.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of("/\\") == std::string_view::npos &&
         std::ranges::none_of(name, is_control);
}

}  // namespace

std::map<std::string, std::string> parse_weight_map(std::string_view text,
                                                    std::string_view origin) {
  const json::value value = parse_python_json(text, origin);
  const json::object* object = value.if_object();
  const json::value* map = object != nullptr ? object->if_contains("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) {
    fail("{}: weight_map is missing; download the file again", origin);
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : map->get_object()) {
    const json::string* name_of_file = file.if_string();
    if (name_of_file == nullptr || !is_plain_file_name(*name_of_file)) {
      fail("{}: tensor {} lies in {}, which is not the name of a file beside the index", origin,
           printable(name), printable(json::serialize(file)));
    }
    files[name] = *name_of_file;
  }
  if (files.empty()) fail("{}: weight_map is empty; download the file again", origin);
  return files;
}

SafetensorsCheckpoint SafetensorsCheckpoint::open(const fs::path& directory) {
  std::error_code error;
  const fs::file_status status = fs::status(directory, error);
  if (status.type() == fs::file_type::not_found) {
    fail("{}: no such directory", directory.string());
  }
  if (error) fail("{}: cannot be opened: {}", directory.string(), error.message());
  if (!fs::is_directory(status)) fail("{}: is not a directory", directory.string());
  SafetensorsCheckpoint checkpoint(directory);
  if (fs::exists(directory / kSingle, error)) {
    checkpoint.open_single(directory / kSingle);
  } else if (fs::exists(directory / kIndex, error)) {
    checkpoint.open_shards(directory / kIndex);
  } else {
    fail("{}: has neither {} nor {}; {}", directory.string(), kSingle, kIndex, advice(directory));
  }
  return checkpoint;
}

void SafetensorsCheckpoint::open_single(const fs::path& file) {
  files_.push_back(SafetensorsFile::open(file));
  for (const auto& [name, info] : files_.back().tensors()) tensors_[name] = {0, &info};
}

void SafetensorsCheckpoint::open_shards(const fs::path& index) {
  const std::map<std::string, std::string> weight_map =
      parse_weight_map(read_file(index, kMaxIndexBytes), index.string());
  std::map<std::string, size_t> numbers;
  for (const auto& [name, file] : weight_map) numbers.emplace(file, 0);
  for (auto& [file, number] : numbers) {
    const fs::path path = directory_ / file;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) {
      fail("{}: no such file, but {} lists it; download it too", path.string(), index.string());
    }
    number = files_.size();
    files_.push_back(SafetensorsFile::open(path));
  }
  for (const auto& [name, file] : weight_map) {
    const size_t number = numbers.at(file);
    const TensorInfo* info = files_[number].find(name);
    if (info == nullptr) {
      fail("{}: tensor {} is not in {}; the files do not belong together: download them again",
           index.string(), printable(name), file);
    }
    tensors_[name] = {number, info};
  }
  for (const SafetensorsFile& file : files_) {
    for (const auto& [name, info] : file.tensors()) {
      const auto found = tensors_.find(name);
      if (found == tensors_.end() || found->second.info != &info) {
        fail(
            "{}: holds tensor {}, which {} {}; the files do not belong together: download them "
            "again",
            file.path().string(), name, index.string(),
            found == tensors_.end() ? "does not list" : "lists in another file");
      }
    }
  }
}

std::vector<std::string> SafetensorsCheckpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

uint64_t SafetensorsCheckpoint::total_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, entry] : tensors_) bytes += entry.info->bytes;
  return bytes;
}

const TensorInfo* SafetensorsCheckpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second.info;
}

const fs::path& SafetensorsCheckpoint::file_of(const std::string& name) const {
  return files_[entry(name).file].path();
}

void SafetensorsCheckpoint::read(const std::string& name, uint64_t first_byte, uint64_t bytes,
                                 void* to) const {
  files_[entry(name).file].read(*entry(name).info, first_byte, bytes, to);
}

const SafetensorsCheckpoint::Entry& SafetensorsCheckpoint::entry(const std::string& name) const {
  const auto found = tensors_.find(name);
  LORAX_CHECK(found != tensors_.end(), "no tensor {}", name);
  return found->second;
}

}  // namespace lorax

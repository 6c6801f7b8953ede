#include "formats/safetensors_checkpoint.h"

#include <set>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/check.h"
#include "base/error.h"
#include "formats/json_file.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

// What else is there instead of safetensors, for a helpful message.
std::string hint(const fs::path& directory) {
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") {
      return fmt::format("; convert {} with save_pretrained(..., safe_serialization=True)",
                         entry.path().filename().string());
    }
    if (extension == ".gguf") return "; GGUF files cannot be read yet";
  }
  return "; download the whole checkpoint";
}

// tensor name -> file name
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const json::value value = read_json_file(index);
  const json::object* object = value.if_object();
  const json::value* map = object != nullptr ? object->if_contains("weight_map") : nullptr;
  if (map == nullptr || !map->is_object()) {
    fail("{}: weight_map is missing; download the file again", index.string());
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : map->get_object()) {
    const json::string* text = file.if_string();
    if (text == nullptr || text->empty() || text->find('/') != json::string::npos ||
        text->find('\\') != json::string::npos || *text == "." || *text == "..") {
      fail("{}: tensor {} lies in {}, which is not the name of a file beside the index",
           index.string(), std::string_view(name), json::serialize(file));
    }
    files[name] = *text;
  }
  if (files.empty()) fail("{}: weight_map is empty; download the file again", index.string());
  return files;
}

}  // namespace

SafetensorsCheckpoint SafetensorsCheckpoint::open(const fs::path& directory) {
  std::error_code ignored;
  if (!fs::exists(directory, ignored)) fail("{}: no such directory", directory.string());
  if (!fs::is_directory(directory, ignored)) fail("{}: is not a directory", directory.string());
  SafetensorsCheckpoint checkpoint(directory);
  const fs::path single = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  if (fs::exists(index, ignored)) {
    checkpoint.open_shards(index);
  } else if (fs::exists(single, ignored)) {
    checkpoint.open_single(single);
  } else {
    fail("{}: has neither model.safetensors nor model.safetensors.index.json{}", directory.string(),
         hint(directory));
  }
  return checkpoint;
}

void SafetensorsCheckpoint::open_single(const fs::path& file) {
  files_.push_back(SafetensorsFile::open(file));
  for (const auto& [name, info] : files_.back().tensors()) tensors_[name] = {0, &info};
}

void SafetensorsCheckpoint::open_shards(const fs::path& index) {
  const std::map<std::string, std::string> weight_map = read_weight_map(index);
  std::map<std::string, size_t> numbers;
  for (const auto& [name, file] : weight_map) numbers.emplace(file, 0);
  files_.reserve(numbers.size());
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
           index.string(), name, file);
    }
    tensors_[name] = {number, info};
  }
  for (const SafetensorsFile& file : files_) {
    for (const auto& [name, info] : file.tensors()) {
      const auto found = tensors_.find(name);
      if (found == tensors_.end() || found->second.info != &info) {
        fail("{}: tensor {} is not where {} says; the files do not belong together: download them "
             "again",
             file.path().string(), name, index.string());
      }
    }
  }
}

std::vector<std::string> SafetensorsCheckpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) names.push_back(name);
  return names;
}

const TensorInfo* SafetensorsCheckpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second.info;
}

void SafetensorsCheckpoint::read(const std::string& name, uint64_t first_byte, uint64_t bytes,
                                 void* to) const {
  const auto found = tensors_.find(name);
  LORAX_CHECK(found != tensors_.end(), "{}", name);
  files_[found->second.file].read(*found->second.info, first_byte, bytes, to);
}

}  // namespace lorax

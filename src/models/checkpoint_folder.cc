#include "models/checkpoint_folder.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/nearest_word.h"
#include "formats/printable.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWhole =
    "a checkpoint is a directory with config.json, model.safetensors (or shards with their index) "
    "and tokenizer.json or tokenizer.model";

// The whole path, as it may have to be copied.
std::string shown(const fs::path& path) {
  std::string text;
  for (const char c : path.string()) {
    is_control(c) ? text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c)) : text += c;
  }
  return text;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// In the order of their names; none if the directory cannot be listed.
std::vector<std::string> names_in(const fs::path& directory, bool directories_only) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (directories_only && !entry->is_directory(ignored)) continue;
    names.push_back(entry->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

// "owner/name" with the characters that the Hugging Face Hub allows.
bool is_hub_name(const std::string& text) {
  const size_t slash = text.find('/');
  const auto is_name = [](std::string_view part) {
    return !part.empty() && part[0] != '.' && std::ranges::all_of(part, [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
    });
  };
  return slash != std::string::npos && is_name(std::string_view(text).substr(0, slash)) &&
         is_name(std::string_view(text).substr(slash + 1));
}

fs::path hub_cache() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value != nullptr ? value : "");
  };
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (!variable(name).empty()) return variable(name);
  }
  if (!variable("HF_HOME").empty()) return variable("HF_HOME") / "hub";
  return variable("HOME") / ".cache/huggingface/hub";
}

// A snapshot with a config.json below one of the Hub cache's "models--owner--name" directories.
std::optional<fs::path> snapshot_in(const fs::path& directory) {
  for (const std::string& name : names_in(directory / "snapshots", true)) {
    if (is_there(directory / "snapshots" / name / "config.json")) {
      return directory / "snapshots" / name;
    }
  }
  return std::nullopt;
}

[[noreturn]] void fail_hub_name(const std::string& name) {
  std::string in_cache = name;
  in_cache.replace(in_cache.find('/'), 1, "--");
  if (const auto snapshot = snapshot_in(hub_cache() / ("models--" + in_cache))) {
    fail("{}: no such directory; its download is in the Hub's cache: give {}", name,
         shown(*snapshot));
  }
  fail(
      "{0}: no such directory; models are not downloaded by lorax: fetch it with \"hf download {0} "
      "--local-dir {1}\" and give {1}",
      name, name.substr(name.find('/') + 1));
}

[[noreturn]] void fail_missing(const fs::path& path) {
  const std::string text = path.string();
  if (text.empty()) fail("the model's path is empty; {}", kWhole);
  if (text.find("://") != std::string::npos) {
    fail("{}: is an address; download the checkpoint and give its directory", shown(text));
  }
  const bool parent_is_there = !path.has_parent_path() || is_there(path.parent_path());
  if (is_hub_name(text) && !parent_is_there) fail_hub_name(text);
  // The part that leads nowhere, and what there is in its place.
  fs::path there = path.is_absolute() ? path.root_path() : fs::path();
  for (const fs::path& part : path.relative_path()) {
    if (part.empty() || is_there(there / part)) {
      there /= part;
      continue;
    }
    const auto nearest = nearest_word(part.string(), names_in(there.empty() ? "." : there, true));
    if (nearest) {
      fail("{}: no such directory; did you mean {}?", shown(text), shown(there / *nearest));
    }
    fail("{}: no such directory: {} has no {}", shown(text),
         there.empty() ? "this directory" : shown(there), shown(part));
  }
  fail("{}: no such directory; {}", shown(text), kWhole);
}

[[noreturn]] void fail_file(const fs::path& path) {
  if (path.extension() == ".gguf") {
    fail(
        "{}: GGUF files cannot be read; give the directory of the original checkpoint "
        "(config.json and safetensors)",
        shown(path));
  }
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  fail("{}: is a file; give the checkpoint's directory{}", shown(path),
       is_there(parent / "config.json") ? fmt::format(", {}", shown(parent)) : "");
}

[[noreturn]] void fail_without_config(const fs::path& path) {
  std::error_code error;
  const fs::directory_iterator listing(path, error);
  if (error) fail("{}: cannot be listed: {}", shown(path), error.message());
  const std::vector<std::string> names = names_in(path, false);
  if (names.empty()) fail("{}: is empty; {}", shown(path), kWhole);
  if (is_there(path / "adapter_config.json")) {
    fail(
        "{}: holds an adapter, not a model: give the model that it was trained on as --model-id "
        "and the adapter as --adapter-id",
        shown(path));
  }
  if (const auto snapshot = snapshot_in(path)) {
    fail("{}: is a directory of the Hub's cache: give {}", shown(path), shown(*snapshot));
  }
  for (const std::string& name : names) {
    if (fs::path(name).extension() == ".gguf") fail_file(path / name);
    if (is_there(path / name / "config.json")) {
      fail("{}: has no config.json; did you mean {}?", shown(path), shown(path / name));
    }
  }
  fail("{}: has no config.json; {}", shown(path), kWhole);
}

}  // namespace

void require_checkpoint(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) fail_missing(path);
  if (error) fail("{}: cannot be opened: {}", shown(path), error.message());
  if (!fs::is_directory(status)) fail_file(path);
  if (!fs::exists(path / "config.json", error)) {
    if (error) fail("{}: cannot be opened: {}", shown(path), error.message());
    fail_without_config(path);
  }
}

}  // namespace lorax

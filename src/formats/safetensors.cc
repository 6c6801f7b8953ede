#include "formats/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "formats/json_file.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr size_t kMaxRank = 8;

struct FormatType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> dtype;
};

constexpr std::array kTypes = {
    FormatType{"F32", 4, DType::kFloat32}, FormatType{"BF16", 2, DType::kBFloat16},
    FormatType{"F16", 2, DType::kFloat16}, FormatType{"I64", 8, DType::kInt64},
    FormatType{"I32", 4, DType::kInt32},   FormatType{"F64", 8, std::nullopt},
    FormatType{"F8_E4M3", 1, std::nullopt}, FormatType{"F8_E5M2", 1, std::nullopt},
    FormatType{"U64", 8, std::nullopt},    FormatType{"U32", 4, std::nullopt},
    FormatType{"I16", 2, std::nullopt},    FormatType{"U16", 2, std::nullopt},
    FormatType{"I8", 1, std::nullopt},     FormatType{"U8", 1, std::nullopt},
    FormatType{"BOOL", 1, std::nullopt}};

// One entry of the header: knows its file and name for messages.
class EntryParser {
 public:
  EntryParser(std::string_view origin, std::string_view name) : origin_(origin), name_(name) {}

  TensorInfo parse(const json::value& value, uint64_t data_bytes) const {
    const json::object* object = value.if_object();
    if (object == nullptr) bad("its entry is not an object");
    TensorInfo info;
    const FormatType& type = parse_type(*object);
    info.dtype_name = type.name;
    info.dtype = type.dtype;
    info.shape = parse_shape(*object);
    parse_place(*object, data_bytes, info);
    uint64_t expected = type.bytes;
    for (int64_t dim : info.shape) {
      if (__builtin_mul_overflow(expected, static_cast<uint64_t>(dim), &expected)) {
        bad("its shape is larger than any memory");
      }
    }
    if (expected != info.bytes) {
      bad(fmt::format("its shape needs {} bytes and its data_offsets give {}", expected,
                      info.bytes));
    }
    return info;
  }

 private:
  [[noreturn]] void bad(std::string_view reason) const {
    fail("{}: tensor {}: {}; the file is damaged: download it again", origin_, name_, reason);
  }

  const json::value& member(const json::object& object, std::string_view key) const {
    const json::value* value = object.if_contains(key);
    if (value == nullptr) bad(fmt::format("{} is missing", key));
    return *value;
  }

  const FormatType& parse_type(const json::object& object) const {
    const json::value& value = member(object, "dtype");
    for (const FormatType& type : kTypes) {
      if (value.is_string() && value.get_string() == type.name) return type;
    }
    bad(fmt::format("dtype {} is unknown", json::serialize(value)));
  }

  std::vector<int64_t> parse_shape(const json::object& object) const {
    const json::array* array = member(object, "shape").if_array();
    if (array == nullptr || array->size() > kMaxRank) {
      bad(fmt::format("its shape is not a list of at most {} sizes", kMaxRank));
    }
    std::vector<int64_t> shape;
    for (const json::value& dim : *array) {
      if (!dim.is_int64() || dim.get_int64() < 0) bad("its shape holds what is not a size");
      shape.push_back(dim.get_int64());
    }
    return shape;
  }

  void parse_place(const json::object& object, uint64_t data_bytes, TensorInfo& info) const {
    const json::array* array = member(object, "data_offsets").if_array();
    if (array == nullptr || array->size() != 2 || !(*array)[0].is_int64() ||
        !(*array)[1].is_int64() || (*array)[0].get_int64() < 0) {
      bad("data_offsets is not a pair of byte offsets");
    }
    const uint64_t begin = static_cast<uint64_t>((*array)[0].get_int64());
    const int64_t signed_end = (*array)[1].get_int64();
    const uint64_t end = static_cast<uint64_t>(signed_end);
    if (signed_end < 0 || end < begin) bad("data_offsets end before they begin");
    if (end > data_bytes) {
      bad(fmt::format("data_offsets end at byte {} of {}", end, data_bytes));
    }
    info.offset = begin;
    info.bytes = end - begin;
  }

  std::string_view origin_;
  std::string_view name_;
};

// The format wants the tensors to cover the data section, each byte once.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, uint64_t data_bytes,
                    std::string_view origin) {
  std::vector<const std::pair<const std::string, TensorInfo>*> by_offset;
  for (const auto& entry : tensors) by_offset.push_back(&entry);
  std::ranges::sort(by_offset, {}, [](const auto* entry) {
    return std::pair(entry->second.offset, entry->second.bytes);
  });
  uint64_t end = 0;
  for (const auto* entry : by_offset) {
    if (entry->second.offset != end) {
      fail("{}: tensor {}: its data {}; the file is damaged: download it again", origin,
           entry->first,
           entry->second.offset < end ? "overlaps another tensor's" : "follows a hole");
    }
    end += entry->second.bytes;
  }
  if (end != data_bytes) {
    fail("{}: {} bytes of data belong to no tensor; the file is damaged: download it again", origin,
         data_bytes - end);
  }
}

// pread until everything is there; false at the end of the file.
bool read_fully(int descriptor, void* to, uint64_t bytes, uint64_t offset,
                const std::filesystem::path& path) {
  char* out = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t n = ::pread(descriptor, out, std::min<uint64_t>(bytes, uint64_t{1} << 30),
                              static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("{}: cannot be read: {}", path.string(), std::strerror(errno));
    if (n == 0) return false;
    out += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return true;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_bytes,
                                           std::string_view origin) {
  const json::value value = parse_json(text, fmt::format("{}: header", origin));
  const json::object* object = value.if_object();
  if (object == nullptr) fail("{}: the header is not a JSON object", origin);
  SafetensorsHeader header;
  for (const auto& [name, entry] : *object) {
    if (name == "__metadata__") {
      const json::object* metadata = entry.if_object();
      if (metadata == nullptr) fail("{}: __metadata__ is not an object", origin);
      for (const auto& [key, text_value] : *metadata) {
        if (!text_value.is_string()) fail("{}: __metadata__ holds what is not a string", origin);
        header.metadata[key] = text_value.get_string();
      }
      continue;
    }
    header.tensors[name] = EntryParser(origin, name).parse(entry, data_bytes);
  }
  check_coverage(header.tensors, data_bytes, origin);
  return header;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail("{}: cannot be opened: {}", path.string(), std::strerror(errno));
  SafetensorsFile file(path, descriptor);
  struct stat status{};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    fail("{}: is not a file", path.string());
  }
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  uint8_t prefix[8];
  if (size < sizeof(prefix) || !read_fully(descriptor, prefix, sizeof(prefix), 0, path)) {
    fail("{}: {} bytes are too few for a safetensors file; download it again", path.string(), size);
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | prefix[i];
  if (header_bytes > kMaxHeaderBytes || header_bytes > size - sizeof(prefix)) {
    fail("{}: the header is said to have {} bytes and the file has {}; it is no safetensors file, or "
         "cut short: download it again",
         path.string(), header_bytes, size);
  }
  std::string header(header_bytes, '\0');
  if (!read_fully(descriptor, header.data(), header_bytes, sizeof(prefix), path)) {
    fail("{}: is cut short; download it again", path.string());
  }
  file.data_offset_ = sizeof(prefix) + header_bytes;
  file.header_ = parse_safetensors_header(header, size - file.data_offset_, path.string());
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      data_offset_(other.data_offset_),
      header_(std::move(other.header_)) {}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = header_.tensors.find(name);
  return found == header_.tensors.end() ? nullptr : &found->second;
}

void SafetensorsFile::read(const TensorInfo& tensor, uint64_t first_byte, uint64_t bytes,
                           void* to) const {
  if (!read_fully(descriptor_, to, bytes, data_offset_ + tensor.offset + first_byte, path_)) {
    fail("{}: has become shorter while it was read", path_.string());
  }
}

}  // namespace lorax

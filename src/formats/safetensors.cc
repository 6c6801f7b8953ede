#include "formats/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/ranges.h>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/check.h"
#include "base/error.h"
#include "formats/json_file.h"
#include "formats/lfs_pointer.h"
#include "formats/printable.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxNameBytes = 1000;
constexpr std::string_view kDamaged = "the file is damaged: download it again";

struct FormatType {
  std::string_view name;
  uint64_t bits;  // of one element
  std::optional<DType> dtype;
};

constexpr std::array kTypes = {
    FormatType{"F32", 32, DType::kFloat32},     FormatType{"BF16", 16, DType::kBFloat16},
    FormatType{"F16", 16, DType::kFloat16},     FormatType{"I64", 64, DType::kInt64},
    FormatType{"I32", 32, DType::kInt32},       FormatType{"BOOL", 8, std::nullopt},
    FormatType{"F4", 4, std::nullopt},          FormatType{"F6_E2M3", 6, std::nullopt},
    FormatType{"F6_E3M2", 6, std::nullopt},     FormatType{"F8_E4M3", 8, std::nullopt},
    FormatType{"F8_E4M3FNUZ", 8, std::nullopt}, FormatType{"F8_E5M2", 8, std::nullopt},
    FormatType{"F8_E5M2FNUZ", 8, std::nullopt}, FormatType{"F8_E8M0", 8, std::nullopt},
    FormatType{"U8", 8, std::nullopt},          FormatType{"I8", 8, std::nullopt},
    FormatType{"U16", 16, std::nullopt},        FormatType{"I16", 16, std::nullopt},
    FormatType{"U32", 32, std::nullopt},        FormatType{"U64", 64, std::nullopt},
    FormatType{"F64", 64, std::nullopt},        FormatType{"C64", 64, std::nullopt},
};

// One entry of the header: knows its file and name for messages.
class EntryParser {
 public:
  EntryParser(std::string_view origin, std::string_view name) : origin_(origin), name_(name) {}

  TensorInfo parse(const json::value& value, uint64_t data_bytes) const {
    const json::object* object = value.if_object();
    if (object == nullptr) damaged("its entry is not an object");
    TensorInfo info;
    info.name = name_;
    const FormatType& type = parse_type(*object);
    info.dtype_name = type.name;
    info.dtype = type.dtype;
    info.shape = parse_shape(*object);
    parse_place(*object, data_bytes, info);
    const uint64_t expected = bytes_of(info.shape, type);
    if (expected != info.bytes) {
      damaged(fmt::format("its shape needs {} bytes and its data_offsets give {}", expected,
                          info.bytes));
    }
    return info;
  }

 private:
  [[noreturn]] void bad(std::string_view reason) const {
    fail("{}: tensor {}: {}", origin_, name_, reason);
  }
  [[noreturn]] void damaged(std::string_view reason) const {
    fail("{}: tensor {}: {}; {}", origin_, name_, reason, kDamaged);
  }

  const json::value& member(const json::object& object, std::string_view key) const {
    const json::value* value = object.if_contains(key);
    if (value == nullptr) damaged(fmt::format("{} is missing", key));
    return *value;
  }

  const FormatType& parse_type(const json::object& object) const {
    const json::value& value = member(object, "dtype");
    for (const FormatType& type : kTypes) {
      if (value.is_string() && value.get_string() == type.name) return type;
    }
    std::array<std::string_view, kTypes.size()> known;
    std::ranges::transform(kTypes, known.begin(), &FormatType::name);
    bad(fmt::format("dtype {} is unknown; known: {}", printable(json::serialize(value)),
                    fmt::join(known, ", ")));
  }

  std::vector<int64_t> parse_shape(const json::object& object) const {
    const json::array* array = member(object, "shape").if_array();
    if (array == nullptr) damaged("its shape is not a list");
    if (array->size() > kMaxRank) {
      bad(fmt::format("its shape has {} sizes; this program reads at most {}", array->size(),
                      kMaxRank));
    }
    std::vector<int64_t> shape;
    for (const json::value& size : *array) {
      if (!size.is_int64() || size.get_int64() < 0) damaged("its shape holds what is not a size");
      shape.push_back(size.get_int64());
    }
    return shape;
  }

  uint64_t bytes_of(const std::vector<int64_t>& shape, const FormatType& type) const {
    uint64_t elements = 1;
    uint64_t bits = 0;
    bool overflow = false;
    for (int64_t size : shape) {
      overflow |= __builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements);
    }
    overflow |= __builtin_mul_overflow(elements, type.bits, &bits);
    if (overflow) damaged("its shape is larger than any memory");
    if (bits % 8 != 0) {
      damaged(
          fmt::format("its {} elements of {} bits do not fill whole bytes", elements, type.bits));
    }
    return bits / 8;
  }

  void parse_place(const json::object& object, uint64_t data_bytes, TensorInfo& info) const {
    const json::array* array = member(object, "data_offsets").if_array();
    if (array == nullptr || array->size() != 2 || !(*array)[0].is_int64() ||
        !(*array)[1].is_int64() || (*array)[0].get_int64() < 0) {
      damaged("data_offsets is not a pair of byte offsets");
    }
    const int64_t begin = (*array)[0].get_int64();
    const int64_t end = (*array)[1].get_int64();
    if (end < begin) damaged("data_offsets end before they begin");
    info.offset = static_cast<uint64_t>(begin);
    info.bytes = static_cast<uint64_t>(end - begin);
    if (static_cast<uint64_t>(end) > data_bytes) {
      damaged(fmt::format("data_offsets end at byte {} of {}", end, data_bytes));
    }
  }

  std::string_view origin_;
  std::string_view name_;
};

// A name goes into messages, of this floor and of those above: it must not break their line.
void check_name(std::string_view name, std::string_view origin) {
  if (name.size() > kMaxNameBytes || std::ranges::any_of(name, is_control)) {
    fail(
        "{}: \"{}\" is not the name of a tensor: it holds control characters or more than {} bytes",
        origin, printable(name), kMaxNameBytes);
  }
}

std::map<std::string, std::string> parse_metadata(const json::value& value,
                                                  std::string_view origin) {
  const json::object* object = value.if_object();
  if (object == nullptr) fail("{}: __metadata__ is not an object; {}", origin, kDamaged);
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : *object) {
    if (!text.is_string()) {
      fail("{}: __metadata__: {} is not a string; {}", origin, printable(key), kDamaged);
    }
    metadata[key] = text.get_string();
  }
  return metadata;
}

// The format wants the tensors to cover the data section, each byte once.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, uint64_t data_bytes,
                    std::string_view origin) {
  std::vector<const TensorInfo*> by_offset;
  for (const auto& [name, info] : tensors) by_offset.push_back(&info);
  std::ranges::sort(by_offset, {},
                    [](const TensorInfo* info) { return std::pair(info->offset, info->bytes); });
  uint64_t end = 0;
  for (const TensorInfo* info : by_offset) {
    if (info->offset != end) {
      fail("{}: tensor {}: its data {}; {}", origin, info->name,
           info->offset < end ? "overlaps another tensor's" : "follows a hole", kDamaged);
    }
    end += info->bytes;
  }
  if (end != data_bytes) {
    fail("{}: {} bytes of data belong to no tensor; {}", origin, data_bytes - end, kDamaged);
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t data_bytes,
                                           std::string_view origin) {
  const json::value value = parse_json(text, fmt::format("{}: header", origin));
  const json::object* object = value.if_object();
  if (object == nullptr) fail("{}: the header is not a JSON object; {}", origin, kDamaged);
  SafetensorsHeader header;
  for (const auto& [name, entry] : *object) {
    if (name == "__metadata__") {
      header.metadata = parse_metadata(entry, origin);
    } else {
      check_name(name, origin);
      header.tensors[name] = EntryParser(origin, name).parse(entry, data_bytes);
    }
  }
  check_coverage(header.tensors, data_bytes, origin);
  return header;
}

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  return open(open_regular_file(path), path);
}

SafetensorsFile SafetensorsFile::open(FileDescriptor file, const std::filesystem::path& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) {
    fail("{}: cannot be read: {}", path.string(), system_error_text());
  }
  const auto read = [&](void* to, uint64_t bytes, uint64_t offset) {
    const std::string reason = read_fully(file, to, bytes, offset);
    if (!reason.empty()) fail("{}: cannot be read: {}", path.string(), reason);
  };

  const uint64_t size = static_cast<uint64_t>(status.st_size);
  std::string begin(std::min<uint64_t>(size, 64), '\0');
  read(begin.data(), begin.size(), 0);
  refuse_lfs_pointer(begin, path.string());
  uint8_t prefix[8];
  if (size < sizeof(prefix)) {
    fail("{}: {} bytes are too few for a safetensors file; download it again", path.string(), size);
  }
  read(prefix, sizeof(prefix), 0);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | prefix[i];
  if (header_bytes > kMaxHeaderBytes || header_bytes > size - sizeof(prefix)) {
    fail(
        "{}: the header is said to have {} bytes and the file has {}; it is no safetensors file, "
        "or "
        "cut short: download it again",
        path.string(), header_bytes, size);
  }
  std::string text(header_bytes, '\0');
  read(text.data(), header_bytes, sizeof(prefix));
  const uint64_t data_offset = sizeof(prefix) + header_bytes;
  SafetensorsHeader header = parse_safetensors_header(text, size - data_offset, path.string());
  return {path, std::move(file), data_offset, std::move(header)};
}

SafetensorsFile::SafetensorsFile(std::filesystem::path path, FileDescriptor file,
                                 uint64_t data_offset, SafetensorsHeader header)
    : path_(std::move(path)),
      file_(std::move(file)),
      data_offset_(data_offset),
      header_(std::move(header)) {}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = header_.tensors.find(name);
  return found == header_.tensors.end() ? nullptr : &found->second;
}

void SafetensorsFile::read(const TensorInfo& tensor, uint64_t first_byte, uint64_t bytes,
                           void* to) const {
  LORAX_CHECK(first_byte <= tensor.bytes && bytes <= tensor.bytes - first_byte,
              "{} bytes at {} of tensor {}", bytes, first_byte, tensor.name);
  if (!tensor.dtype) {
    fail(
        "{}: tensor {} is of type {}, which this program does not compute in; convert it to F32, "
        "BF16 or F16",
        path_.string(), tensor.name, tensor.dtype_name);
  }
  const std::string reason =
      read_fully(file_, to, bytes, data_offset_ + tensor.offset + first_byte);
  if (!reason.empty()) {
    fail("{}: tensor {}: cannot be read: {}", path_.string(), tensor.name, reason);
  }
}

}  // namespace lorax

#include "formats/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/check.h"
#include "base/error.h"

namespace lorax {
namespace {

namespace json = boost::json;

std::string_view format_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "F32";
    case DType::kBFloat16:
      return "BF16";
    case DType::kFloat16:
      return "F16";
    case DType::kInt32:
      return "I32";
    case DType::kInt64:
      return "I64";
  }
  return "?";
}

void write_fully(int descriptor, const void* data, uint64_t bytes, uint64_t offset,
                 const std::filesystem::path& path) {
  const char* in = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(descriptor, in, std::min<uint64_t>(bytes, uint64_t{1} << 30),
                               static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("{}: cannot be written: {}", path.string(), std::strerror(errno));
    in += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path,
                                     const std::vector<Declaration>& tensors)
    : path_(std::move(path)), partial_(path_.string() + ".partial") {
  json::object header;
  for (const Declaration& tensor : tensors) {
    uint64_t bytes = size_of(tensor.dtype);
    for (int64_t dim : tensor.shape) bytes *= static_cast<uint64_t>(dim);
    header[tensor.name] = {{"dtype", format_name(tensor.dtype)},
                           {"shape", json::array(tensor.shape.begin(), tensor.shape.end())},
                           {"data_offsets", {missing_, missing_ + bytes}}};
    places_.push_back({missing_, bytes});
    missing_ += bytes;
  }
  std::string text = json::serialize(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  std::string prefix;
  for (int shift = 0; shift < 64; shift += 8) {
    prefix.push_back(static_cast<char>(text.size() >> shift & 0xff));
  }
  text.insert(0, prefix);
  for (Place& place : places_) place.offset += text.size();

  descriptor_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    fail("{}: cannot be written: {}", partial_.string(), std::strerror(errno));
  }
  try {
    write_fully(descriptor_, text.data(), text.size(), 0, partial_);
  } catch (...) {
    ::close(descriptor_);
    ::unlink(partial_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(partial_.c_str());
}

void SafetensorsWriter::write(size_t index, uint64_t first_byte, const void* data, uint64_t bytes) {
  LORAX_CHECK(index < places_.size() && first_byte + bytes <= places_[index].bytes &&
              bytes <= missing_);
  write_fully(descriptor_, data, bytes, places_[index].offset + first_byte, partial_);
  missing_ -= bytes;
}

void SafetensorsWriter::finish() {
  LORAX_CHECK(missing_ == 0, "{} bytes were not written", missing_);
  if (::close(std::exchange(descriptor_, -1)) != 0 ||
      ::rename(partial_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(partial_.c_str());
    fail("{}: cannot be written: {}", path_.string(), std::strerror(error));
  }
}

}  // namespace lorax

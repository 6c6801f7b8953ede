#include "formats/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/check.h"
#include "base/error.h"
#include "formats/printable.h"

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

uint64_t bytes_of(const SafetensorsWriter::Declaration& tensor) {
  uint64_t bytes = size_of(tensor.dtype);
  for (int64_t size : tensor.shape) {
    LORAX_CHECK(size >= 0 && !__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes),
                "tensor {}", tensor.name);
  }
  return bytes;
}

// Indices of the tensors, widest elements first; equals stay in order.
std::vector<size_t> file_order(const std::vector<SafetensorsWriter::Declaration>& tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](size_t i) { return size_of(tensors[i].dtype); });
  return order;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path)
    : path_(std::move(path)), partial_(path_.string() + ".partial") {
  std::error_code ignored;
  if (std::filesystem::is_directory(path_, ignored)) fail_to_write("it is a directory");
  file_ = FileDescriptor(
      ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0644));
  if (!file_.is_open()) fail_to_write(system_error_text());
}

// Once the private constructor is done, the destructor cleans up after whatever is thrown here.
SafetensorsWriter::SafetensorsWriter(std::filesystem::path path,
                                     const std::vector<Declaration>& tensors)
    : SafetensorsWriter(std::move(path)) {
  const std::string header = make_header(tensors);
  std::string prefix;
  for (int shift = 0; shift < 64; shift += 8) {
    prefix.push_back(static_cast<char>(header.size() >> shift & 0xff));
  }
  for (Place& place : places_) place.offset += prefix.size() + header.size();
  write_at(0, prefix.data(), prefix.size());
  write_at(prefix.size(), header.data(), header.size());
}

SafetensorsWriter::~SafetensorsWriter() {
  if (file_.is_open()) ::unlink(partial_.c_str());
}

std::string SafetensorsWriter::make_header(const std::vector<Declaration>& tensors) {
  json::object header;
  places_.resize(tensors.size());
  uint64_t end = 0;
  for (size_t i : file_order(tensors)) {
    const Declaration& tensor = tensors[i];
    if (tensor.name == "__metadata__" || header.contains(tensor.name)) {
      fail("{}: cannot hold a tensor {}: {}", path_.string(), printable(tensor.name),
           tensor.name == "__metadata__" ? "the format keeps that name for itself"
                                         : "there is one of that name already");
    }
    places_[i] = {.offset = end, .bytes = bytes_of(tensor)};
    header[tensor.name] = {{"dtype", format_name(tensor.dtype)},
                           {"shape", json::array(tensor.shape.begin(), tensor.shape.end())},
                           {"data_offsets", {end, end + places_[i].bytes}}};
    end += places_[i].bytes;
  }
  std::string text = json::serialize(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data is aligned
  return text;
}

void SafetensorsWriter::write(size_t index, uint64_t first_byte, const void* data, uint64_t bytes) {
  LORAX_CHECK(index < places_.size(), "tensor {} of {}", index, places_.size());
  Place& place = places_[index];
  LORAX_CHECK(first_byte == place.written && bytes <= place.bytes - place.written,
              "{} bytes at {} of tensor {}, which has {} of {}", bytes, first_byte, index,
              place.written, place.bytes);
  write_at(place.offset + first_byte, data, bytes);
  place.written += bytes;
}

void SafetensorsWriter::finish() {
  for (size_t i = 0; i < places_.size(); ++i) {
    LORAX_CHECK(places_[i].written == places_[i].bytes, "tensor {} has {} of {} bytes", i,
                places_[i].written, places_[i].bytes);
  }
  // Without fsync the new name may reach the disk before the data.
  if (::fsync(file_.get()) != 0 || ::rename(partial_.c_str(), path_.c_str()) != 0) {
    fail_to_write(system_error_text());
  }
  file_.close();
}

void SafetensorsWriter::write_at(uint64_t offset, const void* data, uint64_t bytes) {
  const std::string reason = write_fully(file_, data, bytes, offset);
  if (!reason.empty()) fail_to_write(reason);
}

void SafetensorsWriter::fail_to_write(const std::string& reason) const {
  fail("{}: cannot be written: {}", path_.string(), reason);
}

}  // namespace lorax

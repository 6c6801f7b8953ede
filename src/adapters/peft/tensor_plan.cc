#include "adapters/peft/tensor_plan.h"

#include "base/check.h"
#include "base/error.h"
#include "formats/printable.h"

namespace lorax {

TensorPlan::TensorPlan(std::span<const SafetensorsFile> files, std::string_view origin)
    : origin_(origin) {
  for (const SafetensorsFile& file : files) {
    for (const auto& [name, info] : file.tensors()) {
      const auto [place, is_new] = places_.try_emplace(name, Place{&file, &info, nullptr});
      if (!is_new) {
        fail("{}: tensor {} is in both {} and {}; delete one of the files", origin_,
             printable(name), place->second.file->path().filename().string(),
             file.path().filename().string());
      }
    }
  }
}

void TensorPlan::claim(const std::string& name, const std::vector<int64_t>& shape,
                       std::string_view owner, HostTensor* to) {
  const auto found = places_.find(name);
  if (found == places_.end()) {
    fail("{}: tensor {} is missing; {} needs it, of shape {}", origin_, name, owner,
         shape_text(shape));
  }
  Place& place = found->second;
  LORAX_CHECK(place.to == nullptr, "tensor {} is claimed twice", name);
  if (!place.info->dtype || *place.info->dtype == DType::kInt32 ||
      *place.info->dtype == DType::kInt64) {
    fail("{}: tensor {} is of type {}; it must be F32, BF16 or F16", origin_, name,
         place.info->dtype_name);
  }
  if (place.info->shape != shape) {
    fail(
        "{}: tensor {} has shape {}; {} needs {}: the adapter is for another base model, or its "
        "config is not its own",
        origin_, name, shape_text(place.info->shape), owner, shape_text(shape));
  }
  place.to = to;
}

void TensorPlan::check_all_claimed() const {
  std::string first;
  size_t count = 0;
  for (const auto& [name, place] : places_) {
    if (place.to != nullptr) continue;
    if (count++ == 0) first = name;
  }
  if (count == 0) return;
  fail(
      "{}: tensor {}{} belongs to nothing that the config and the base model have: the adapter is "
      "for another base model, or its config is not its own",
      origin_, printable(first), count == 1 ? "" : fmt::format(" (and {} more)", count - 1));
}

void TensorPlan::read(Sha256& digest) {
  digest.add_number(places_.size());
  for (const auto& [name, place] : places_) {
    LORAX_CHECK(place.to != nullptr, "tensor {} is not claimed", name);
    HostTensor tensor = HostTensor::allocate(*place.info->dtype, place.info->shape);
    place.file->read(*place.info, 0, tensor.bytes(), tensor.data.get());
    if (!tensor.all_finite()) {
      fail(
          "{}: tensor {} holds a NaN or an infinity; the adapter is damaged or its training failed",
          origin_, printable(name));
    }
    digest.add_text(name);
    digest.add_text(place.info->dtype_name);
    digest.add_number(tensor.shape.size());
    for (int64_t size : tensor.shape) digest.add_number(static_cast<uint64_t>(size));
    digest.add_bytes(tensor.data.get(), tensor.bytes());
    *place.to = std::move(tensor);
  }
}

}  // namespace lorax

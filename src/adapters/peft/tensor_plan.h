// Which tensors of an adapter's files go where. Every tensor is claimed once before any is read, so
// that what does not fit costs no memory.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/peft/host_tensor.h"
#include "formats/safetensors.h"
#include "formats/sha256.h"

namespace lorax {

class TensorPlan {
 public:
  // The union of the files. Throws Error that begins with `origin` if two hold the same name.
  TensorPlan(std::span<const SafetensorsFile> files, std::string_view origin);

  bool contains(const std::string& name) const { return places_.contains(name); }

  // Null if it is not there.
  const std::vector<int64_t>* shape_of(const std::string& name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? nullptr : &found->second.info->shape;
  }

  // The tensor of that name shall be read into `to`, which must stay where it is until read().
  // Throws Error if it is missing, is no float type or has another shape; `owner` says in the
  // message what the tensor belongs to.
  void claim(const std::string& name, const std::vector<int64_t>& shape, std::string_view owner,
             HostTensor* to);

  // The tensor of that name, if it is there, is of no use and not read.
  void skip(const std::string& name) { places_.erase(name); }

  // Throws Error that names tensors which nobody claimed.
  void check_all_claimed() const;

  // Reads every tensor, in the order of names, and adds name, type, shape and values to the digest.
  // Throws Error if one holds a NaN or an infinity, or the disk fails.
  void read(Sha256& digest);

 private:
  struct Place {
    const SafetensorsFile* file = nullptr;
    const TensorInfo* info = nullptr;
    HostTensor* to = nullptr;
  };

  std::string_view origin_;
  std::map<std::string, Place> places_;
};

}  // namespace lorax

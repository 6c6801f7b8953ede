// Loads a model's weights into device memory and owns them. Model classes hold views.
//
//   WeightStore store(device, source, DType::kBFloat16);
//   Weights w = store.root()["model"]["layers.0"];
//   Tensor o = w["self_attn"].matrix("o_proj", D, H * d);   //
//   model.layers.0.self_attn.o_proj.weight
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "device/device.h"
#include "nn/adapter_module.h"
#include "nn/tensor_source.h"

namespace lorax {

class WeightStore;

// A prefix of tensor names. Every load throws Error if the tensor is missing or of another shape.
class Weights {
 public:
  Weights operator[](std::string_view name) const;

  // "<prefix>.<name>.weight" [rows, columns] in the model dtype.
  Tensor matrix(std::string_view name, int64_t rows, int64_t columns) const;
  // Several matrices of equal width, one under the other, as one product computes them.
  struct Part {
    std::string_view name;
    int64_t rows;
  };
  Tensor stacked(std::span<const Part> parts, int64_t columns) const;
  // "<prefix>.<name>.weight" [size] as float32 with `offset` added in float32.
  Tensor vector_float32(std::string_view name, int64_t size, float offset) const;

  WeightStore& store() const { return *store_; }
  // "<prefix>.<name>": the module's name, as PEFT knows it too.
  std::string full_name(std::string_view name) const;

 private:
  friend class WeightStore;
  Weights(WeightStore& store, std::string prefix) : store_(&store), prefix_(std::move(prefix)) {}

  WeightStore* store_;
  std::string prefix_;
};

class WeightStore {
 public:
  enum class Mode {
    kLoad,
    kCheck,  // names, shapes and sizes only: nothing is allocated or read, tensors have no data
  };
  // Bytes of weights loaded so far.
  using Progress = std::function<void(uint64_t bytes)>;

  // `threads` read and convert in parallel. device and source must outlive the store.
  WeightStore(Device& device, const TensorSource& source, DType dtype, Mode mode, int threads = 1,
              Progress progress = {});

  Weights root() { return Weights(*this, ""); }
  DType dtype() const { return dtype_; }
  Device& device() const { return device_; }
  const TensorSource& source() const { return source_; }
  // Device bytes of everything loaded.
  uint64_t bytes() const { return bytes_; }
  // Where they lie.
  std::span<const Buffer> buffers() const { return buffers_; }

  // A float32 tensor computed by the host; copied to the device (kLoad) and owned here.
  Tensor add_float32(std::span<const float> values, std::initializer_list<int64_t> shape);

  // Makes a module known to adapters. Returns its index.
  int64_t add_module(AdapterModule module);
  // All of them, in the order of their indices.
  const std::vector<AdapterModule>& modules() const { return modules_; }

  // A tensor that the model knows and does not need.
  void mark_used(const std::string& name) { used_.insert(name); }
  // Ends the load. Throws Error if the source has tensors that nobody loaded: weights of another
  // architecture.
  void finish();

 private:
  friend class Weights;
  struct Piece {  // one tensor of the source and where it goes in the destination
    std::string name;
    int64_t rows;
  };
  Tensor load_matrix(std::span<const Piece> pieces, int64_t columns);
  void read_into(const Piece& piece, int64_t columns, char* device_data);
  std::vector<float> read_float32(const std::string& name, int64_t size);
  Tensor allocate(DType dtype, std::initializer_list<int64_t> shape);

  Device& device_;
  const TensorSource& source_;
  DType dtype_;
  Mode mode_;
  ThreadPool pool_;
  std::vector<HostBuffer> staging_;  // of each thread, where the host cannot write weights itself
  Progress progress_;
  uint64_t bytes_ = 0;
  uint64_t read_bytes_ = 0;
  std::vector<Buffer> buffers_;
  std::set<std::string> used_;
  std::vector<AdapterModule> modules_;
};

}  // namespace lorax

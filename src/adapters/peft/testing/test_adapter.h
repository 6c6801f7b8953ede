// Writes adapters for the tests of this floor.
#pragma once

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "adapters/peft/adapter_reader.h"
#include "adapters/peft/testing/fake_model.h"
#include "formats/safetensors_writer.h"
#include "formats/testing/test_directory.h"

namespace lorax {

class TestWithAdapter : public TestWithDirectory {
 protected:
  using Tensors = std::map<std::string, HostTensor>;

  // Distinct values, exact in every float type.
  static HostTensor numbers(std::vector<int64_t> shape, float first = 0.0f) {
    HostTensor tensor = HostTensor::allocate(DType::kFloat32, std::move(shape));
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = first + static_cast<float>(i % 16) / 16.0f;
    }
    return HostTensor::from_floats(values, tensor.shape);
  }
  static HostTensor constant(std::vector<int64_t> shape, float value) {
    HostTensor tensor = HostTensor::allocate(DType::kFloat32, std::move(shape));
    return HostTensor::from_floats(
        std::vector<float>(static_cast<size_t>(tensor.elements()), value), tensor.shape);
  }
  static HostTensor as(DType dtype, const HostTensor& tensor) {
    HostTensor converted = HostTensor::allocate(dtype, tensor.shape);
    tensor.copy_to(dtype, converted.data.get());
    return converted;
  }

  // A and B of one linear layer of the fake model.
  void add_lora(Tensors& tensors, const std::string& name, int64_t rank, float first = 0.0f) const {
    const AdapterModule& module = model_.modules()[model_.index(name)];
    tensors["base_model.model." + name + ".lora_A.weight"] = numbers({rank, module.in}, first);
    tensors["base_model.model." + name + ".lora_B.weight"] = numbers({module.out, rank}, -first);
  }

  void write_tensors(const std::string& file, const Tensors& tensors) const {
    std::vector<SafetensorsWriter::Declaration> declarations;
    for (const auto& [name, tensor] : tensors) {
      declarations.push_back({name, tensor.dtype, tensor.shape});
    }
    SafetensorsWriter writer(directory_ / file, declarations);
    size_t index = 0;
    for (const auto& [name, tensor] : tensors) {
      writer.write(index++, 0, tensor.data.get(), tensor.bytes());
    }
    writer.finish();
  }

  // `keys` goes into adapter_config.json after peft_type.
  void write_adapter(const std::string& keys, const Tensors& tensors) const {
    write_text("adapter_config.json", fmt::format("{{\"peft_type\": \"LORA\", {}}}", keys));
    write_tensors("adapter_model.safetensors", tensors);
  }
  Adapter read() const { return read_adapter(directory_, model_.base()); }
  std::string error() const {
    return error_of([&] { read(); });
  }

  FakeModel model_;
};

}  // namespace lorax

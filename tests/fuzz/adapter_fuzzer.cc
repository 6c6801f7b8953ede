// An adapter from foreign hands: adapter_config.json, a zero byte, config.json (Medusa), a zero
// byte and a safetensors file. It is read whole, with every tensor where it belongs, or is an Error
// of one line; what was read can be merged or is refused in the same way.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapters/merge/merge.h"
#include "adapters/peft/adapter_reader.h"
#include "adapters/peft/testing/fake_model.h"
#include "base/check.h"
#include "base/error.h"

namespace lorax {
namespace {

void check_message(std::string_view message) {
  LORAX_CHECK(message.size() < 4000, "{} bytes", message.size());
  LORAX_CHECK(
      std::ranges::none_of(message, [](char c) { return static_cast<unsigned char>(c) < 0x20; }),
      "{}", message);
}

std::string_view cut(std::string_view& input) {
  const size_t end = std::min(input.find('\0'), input.size());
  const std::string_view part = input.substr(0, end);
  input.remove_prefix(std::min(end + 1, input.size()));
  return part;
}

void check_lora(const Adapter& adapter, const FakeModel& model) {
  for (const auto& [index, weights] : adapter.lora) {
    const AdapterModule& module = model.modules().at(index);
    LORAX_CHECK(weights.rank >= 1 && weights.rank <= PeftConfig::kMaxRank);
    LORAX_CHECK((weights.a.shape == std::vector{weights.rank, module.in}) && weights.a);
    LORAX_CHECK((weights.b.shape == std::vector{module.out, weights.rank}) && weights.b);
    LORAX_CHECK(weights.a.all_finite() && weights.b.all_finite());
    LORAX_CHECK(static_cast<bool>(weights.bias) == adapter.config->lora_bias);
    LORAX_CHECK(static_cast<bool>(weights.magnitude) == adapter.config->use_dora);
  }
  for (const auto& [index, own] : adapter.tokens) {
    LORAX_CHECK(own.rows.all_finite() && !own.ids.empty() && std::ranges::is_sorted(own.ids));
  }
  for (const auto& [index, weight] : adapter.replaced) LORAX_CHECK(weight && weight.all_finite());
  LORAX_CHECK(adapter.digest.size() == 64);
  LORAX_CHECK(!describe(adapter, model.modules()).empty());
}

void merge(const Adapter& adapter, const FakeModel& model) {
  const std::vector<MergeMember> members = {{&adapter, "one"}, {&adapter, "two"}};
  MergeParameters parameters;
  parameters.weights = {0.75, -0.5};
  parameters.density = 0.5;
  for (MergeStrategy strategy : {MergeStrategy::kTies, MergeStrategy::kDareLinear}) {
    parameters.strategy = strategy;
    check_lora(merge_adapters(parameters, members, model.modules()), model);
  }
}

void fuzz_adapter(std::string_view input) {
  static const FakeModel model;
  static const int descriptor = ::memfd_create("fuzz", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  AdapterFiles files;
  files.origin = "fuzz";
  files.peft_text = cut(input);
  files.medusa_text = cut(input);
  if (files.peft_text.empty() && files.medusa_text.empty()) return;
  LORAX_CHECK(::ftruncate(descriptor, 0) == 0);
  LORAX_CHECK(::pwrite(descriptor, input.data(), input.size(), 0) ==
              static_cast<ssize_t>(input.size()));
  try {
    files.tensors.push_back(SafetensorsFile::open(path));
    const Adapter adapter = read_adapter_files(files, model.base());
    LORAX_CHECK(adapter.bytes() <= 2 * input.size());
    check_lora(adapter, model);
    merge(adapter, model);
  } catch (const Error& error) {
    check_message(error.what());
  }
}

}  // namespace
}  // namespace lorax

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lorax::fuzz_adapter({reinterpret_cast<const char*>(data), size});
  return 0;
}

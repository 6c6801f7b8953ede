#include "cli/bench_adapters.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace lorax::cli {
namespace {

// Uniform numbers of that deviation in bfloat16, never zero.
HostTensor random_tensor(std::vector<int64_t> shape, double deviation, uint64_t& state) {
  HostTensor tensor = HostTensor::allocate(DType::kBFloat16, std::move(shape));
  uint16_t* bits = reinterpret_cast<uint16_t*>(tensor.data.get());
  const double width = deviation * std::sqrt(12.0);
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const double unit = (static_cast<double>(state >> 40) + 0.5) * 0x1p-24;
    bits[i] = BFloat16(static_cast<float>((unit - 0.5) * width)).bits;
  }
  return tensor;
}

std::string_view last_name(const AdapterModule& module) {
  return std::string_view(module.name).substr(module.name.rfind('.') + 1);
}

bool is_projection(const AdapterModule& module) {
  return module.kind == AdapterModule::Kind::kLinear && last_name(module) != "lm_head";
}

}  // namespace

BenchAdapters::BenchAdapters(LoadedModel& model, int64_t count, int64_t rank,
                             const std::vector<std::string>& targets)
    : tables_(model.device(), static_cast<int64_t>(model.model().adapter_modules().size()),
              std::max<int64_t>(1, count), model.dtype()),
      backend_(model.device(), model.model().adapter_modules(), tables_, "",
               [](const std::string&) {}) {
  const std::vector<AdapterModule>& modules = model.model().adapter_modules();
  const bool all = targets == std::vector<std::string>{"all"};
  for (const std::string& target : targets) {
    if (!all && std::ranges::find(modules, target, last_name) == modules.end()) {
      fail("--targets {}: no module has that name; use all, or names such as q_proj,v_proj",
           target);
    }
  }
  uint64_t state = 7;
  for (int64_t i = 0; i < count; ++i) {
    Adapter adapter;
    for (size_t module = 0; module < modules.size(); ++module) {
      const bool wanted =
          all ? is_projection(modules[module])
              : std::ranges::find(targets, last_name(modules[module])) != targets.end();
      if (!wanted) continue;
      const double size = 1.0 / std::sqrt(static_cast<double>(modules[module].in));
      adapter.lora[module] = {.rank = rank,
                              .scale = 1.0f,
                              .a = random_tensor({rank, modules[module].in}, size, state),
                              .b = random_tensor({modules[module].out, rank}, 0.02, state),
                              .bias = {},
                              .magnitude = {}};
    }
    packed_.push_back(backend_.pack(adapter));
    resident_.push_back(backend_.install(*packed_.back(), static_cast<int>(i)));
    bytes_each_ = packed_.back()->bytes();
  }
}

}  // namespace lorax::cli

#include "device/cuda/megakernel/program_recorder.h"

#include <algorithm>
#include <utility>

#include "device/cuda/runtime/cuda_error.h"
#include "device/cuda/runtime/page_map.h"

namespace lorax::cuda {
namespace {

// What its own launch costs, a program must save.
constexpr size_t kMinProducts = 2;

// Whether the one takes all of what the other makes.
bool is_behind(const GeluMulArgs& gelu, const LoraLinearArgs& product) {
  const LinearArgs& linear = product.linear;
  return product.gated.data == nullptr && gelu.gate_up.data == linear.out.data &&
         gelu.gate_up.stride == linear.out.stride && gelu.rows == linear.rows &&
         2 * gelu.width == linear.m;
}

// Empty if the driver has no such maps.
std::vector<CUtensorMap> maps_of(const Program& program) {
  std::vector<CUtensorMap> maps(program.products.size());
  for (size_t i = 0; i < maps.size(); ++i) {
    const ProgramProduct& product = program.products[i];
    if (!make_panel_map(maps[i], product.weight, product.m, product.n, kProgramBoxRows)) return {};
  }
  return maps;
}

}  // namespace

ProgramRecorder::ProgramRecorder(Stream stream, const ProgramLimits& limits, std::byte* table,
                                 size_t table_bytes, LaunchAlone launch_alone)
    : stream_(stream),
      limits_(limits),
      table_(table),
      table_bytes_(table_bytes),
      launch_alone_(std::move(launch_alone)) {}

void ProgramRecorder::add(const Operation& operation) {
  const auto* gelu = std::get_if<GeluMulArgs>(&operation);
  if (gelu != nullptr && !operations_.empty()) {
    auto* product = std::get_if<LoraLinearArgs>(&operations_.back());
    if (product != nullptr && is_behind(*gelu, *product)) {
      product->gated = gelu->out;
      return;
    }
  }
  operations_.push_back(operation);
}

void ProgramRecorder::flush() {
  const std::vector<Operation> operations = std::exchange(operations_, {});
  for (auto begin = operations.begin(); begin != operations.end();) {
    const auto end = std::find_if_not(begin, operations.end(), [this](const Operation& operation) {
      return is_programmable(operation, limits_);
    });
    launch({begin, end});
    if (end == operations.end()) return;
    launch_alone_(*end);
    begin = end + 1;
  }
}

void ProgramRecorder::launch(std::span<const Operation> run) {
  const Program program = compile(run, limits_);
  const bool has_room = image_.size() + program.table_bytes() <= table_bytes_;
  std::vector<CUtensorMap> maps;
  if (program.products.size() >= kMinProducts && has_room && can_launch(program, limits_)) {
    maps = maps_of(program);
  }
  if (maps.empty()) {
    std::ranges::for_each(run, launch_alone_);
    return;
  }
  launch_program(stream_, program, table_ + image_.size(), limits_);
  check(cudaGetLastError(), "program");
  const std::vector<std::byte> table = program.table(maps);
  image_.insert(image_.end(), table.begin(), table.end());
  for (const Program::CopyBack& copy : program.copies) {
    check(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyDeviceToDevice, stream_),
          "copy on the GPU");
  }
}

}  // namespace lorax::cuda

#include "device/cuda/program_recorder.h"

#include <algorithm>
#include <utility>

#include "device/cuda/cuda_error.h"

namespace lorax::cuda {
namespace {

// What its own launch costs, a program must save.
constexpr size_t kMinProducts = 2;

template <typename T>
void append(const std::vector<T>& values, std::vector<std::byte>& to) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(values));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace

ProgramRecorder::ProgramRecorder(Stream stream, const ProgramLimits& limits, std::byte* table,
                                 size_t table_bytes, LaunchAlone launch_alone)
    : stream_(stream),
      limits_(limits),
      table_(table),
      table_bytes_(table_bytes),
      launch_alone_(std::move(launch_alone)) {}

void ProgramRecorder::add(const Operation& operation) { operations_.push_back(operation); }

void ProgramRecorder::flush() {
  const std::vector<Operation> operations = std::exchange(operations_, {});
  for (auto begin = operations.begin(); begin != operations.end();) {
    const auto end = std::find_if_not(begin, operations.end(), is_programmable);
    launch({begin, end});
    if (end == operations.end()) return;
    launch_alone_(*end);
    begin = end + 1;
  }
}

void ProgramRecorder::launch(std::span<const Operation> run) {
  const Program program = compile(run, limits_);
  const bool has_room = image_.size() + program.table_bytes() <= table_bytes_;
  if (program.products.size() < kMinProducts || !has_room || !can_launch(program, limits_)) {
    std::ranges::for_each(run, launch_alone_);
    return;
  }
  launch_program(stream_, program, table_ + image_.size(), limits_);
  check(cudaGetLastError(), "program");
  append(program.instructions, image_);
  append(program.products, image_);
  for (const Program::CopyBack& copy : program.copies) {
    check(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyDeviceToDevice, stream_),
          "copy on the GPU");
  }
}

}  // namespace lorax::cuda

// Takes down the operations of a graph and launches them as programs where that is possible.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "device/cuda/megakernel/program.h"

namespace lorax::cuda {

class ProgramRecorder {
 public:
  using LaunchAlone = std::function<void(const Operation&)>;

  // Tables of programs will lie at `table`, on the device, of at most `table_bytes`; image() must
  // be there before what was launched runs. `launch_alone` launches what is part of no program.
  ProgramRecorder(Stream stream, const ProgramLimits& limits, std::byte* table, size_t table_bytes,
                  LaunchAlone launch_alone);

  void add(const Operation& operation);
  // Launches all that was added since the last call.
  void flush();

  std::span<const std::byte> image() const { return image_; }

 private:
  void launch(std::span<const Operation> run);

  Stream stream_;
  ProgramLimits limits_;
  std::byte* table_;
  size_t table_bytes_;
  LaunchAlone launch_alone_;
  std::vector<Operation> operations_;
  std::vector<std::byte> image_;
};

}  // namespace lorax::cuda

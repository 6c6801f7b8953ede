// Graphs of captured work and events, as CUDA has them.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <utility>

#include "device/device.h"

namespace lorax::cuda {

class CudaGraph final : public DeviceGraph {
 public:
  // Keeps what `work` launches on `stream`; it must belong to the current device and to nobody
  // else meanwhile. Other threads may use the GPU in any way.
  CudaGraph(cudaStream_t stream, const std::function<void()>& work);
  ~CudaGraph() override;

  // Memory that the work uses; it is freed with the graph.
  void keep(Buffer memory) { memory_ = std::move(memory); }

  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t executable_ = nullptr;
  Buffer memory_;
};

class CudaEvent final : public DeviceEvent {
 public:
  // Moments of `stream` of the device `index`.
  CudaEvent(int index, cudaStream_t stream);
  ~CudaEvent() override;

  void record() override;
  void wait() override;
  double seconds_since(DeviceEvent& earlier) override;

 private:
  int index_;
  cudaStream_t stream_;
  cudaEvent_t event_ = nullptr;
};

}  // namespace lorax::cuda

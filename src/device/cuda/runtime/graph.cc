#include "device/cuda/runtime/graph.h"

#include "device/cuda/runtime/cuda_error.h"

namespace lorax::cuda {
namespace {

struct Captured {
  cudaGraph_t graph = nullptr;

  ~Captured() {
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
};

}  // namespace

CudaGraph::CudaGraph(cudaStream_t stream, const std::function<void()>& work) {
  Captured captured;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &captured.graph);
    cudaGetLastError();  // told by what was thrown
    throw;
  }
  check(cudaStreamEndCapture(stream, &captured.graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&executable_, captured.graph, 0), "cudaGraphInstantiate");
  // What the first launch would otherwise do.
  check(cudaGraphUpload(executable_, stream), "cudaGraphUpload");
  check(cudaStreamSynchronize(stream), "cudaGraphUpload");
}

CudaGraph::~CudaGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
}

void CudaGraph::launch(cudaStream_t stream) const {
  check(cudaGraphLaunch(executable_, stream), "cudaGraphLaunch");
}

CudaEvent::CudaEvent(int index, cudaStream_t stream) : index_(index), stream_(stream) {
  check(cudaEventCreate(&event_), "cudaEventCreate");
}

CudaEvent::~CudaEvent() { cudaEventDestroy(event_); }

void CudaEvent::record() {
  check(cudaSetDevice(index_), "cudaSetDevice");
  check(cudaEventRecord(event_, stream_), "cudaEventRecord");
}

void CudaEvent::wait() { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }

double CudaEvent::seconds_since(DeviceEvent& earlier) {
  earlier.wait();
  wait();
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, static_cast<CudaEvent&>(earlier).event_, event_),
        "cudaEventElapsedTime");
  return milliseconds * 1e-3;
}

}  // namespace lorax::cuda

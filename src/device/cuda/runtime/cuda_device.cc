#include "device/cuda/runtime/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "device/cuda/lora/lora.h"
#include "device/cuda/ops/kernel_args.h"
#include "device/cuda/runtime/cuda_error.h"
#include "device/cuda/runtime/graph.h"
#include "device/cuda/runtime/memory_pool.h"
#include "device/factory/factories.h"

namespace lorax::cuda {
namespace {

// What cuBLASLt's fastest algorithms on Hopper ask for.
constexpr size_t kScratchBytes = size_t{32} << 20;
// Of the programs of a graph: some thousand instructions.
constexpr size_t kTableBytes = size_t{256} << 10;

int count_of_gpus(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    fail("--device cuda:{}: this machine has no usable NVIDIA GPU ({})", index,
         status == cudaSuccess ? "none found" : cudaGetErrorString(status));
  }
  return count;
}

}  // namespace

CudaDevice::CudaDevice(int index, double memory_fraction)
    : index_(index), memory_fraction_(memory_fraction) {
  const int count = count_of_gpus(index);
  if (index >= count) {
    fail("--device cuda:{}: this machine has {} GPU{}: give cuda:0{}", index, count,
         count == 1 ? "" : "s", count == 1 ? "" : fmt::format(" to cuda:{}", count - 1));
  }
  check(cudaGetDeviceProperties(&properties_, index), "cudaGetDeviceProperties");
  if (properties_.major < 8) {
    fail("--device cuda:{}: {} has compute capability {}.{}; 8.0 or newer is needed", index,
         properties_.name, properties_.major, properties_.minor);
  }
  use();
  check(prepare_prefill(), "setting the shared memory of prefill attention");
  if (is_hopper()) {
    check(prepare_prefill_hopper(), "setting the shared memory of prefill attention (Hopper)");
    check(prepare_programs(properties_.sharedMemPerBlockOptin),
          "setting the shared memory of programs");
  }
  check(prepare_decode(), "setting the shared memory of decode attention");
  check(prepare_skinny(), "setting the shared memory of products");
  if (is_hopper()) {
    check(prepare_linear_hopper(), "setting the shared memory of products (Hopper)");
    check(prepare_gemm_hopper(), "setting the shared memory of products of many rows (Hopper)");
  }
  for (cudaStream_t* stream : {&main_stream_, &capture_stream_}) {
    check(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  stream_ = {.handle = main_stream_,
             .overlaps = is_hopper(),  // others run the code of 8.0, which does not wait
             .hopper = is_hopper(),
             .multiprocessors = properties_.multiProcessorCount};
  transfers_ = std::make_unique<Transfers>();
  scratch_ = allocate(kScratchBytes);
  const size_t ticket_bytes = kDecodeTickets * sizeof(uint32_t);
  tickets_ = static_cast<uint32_t*>(allocate(ticket_bytes));
  check(cudaMemsetAsync(tickets_, 0, ticket_bytes, main_stream_), "cudaMemsetAsync");
  program_sync_ = static_cast<ProgramSync*>(allocate(sizeof(ProgramSync)));
  check(cudaMemsetAsync(program_sync_, 0, sizeof(ProgramSync), main_stream_), "cudaMemsetAsync");
  launcher_ = std::make_unique<Launcher>(Launcher::Room{scratch_, kScratchBytes, tickets_});
}

CudaDevice::~CudaDevice() {
  // Nothing to report to: after a failure of the GPU these calls fail as well.
  cudaSetDevice(index_);
  cudaStreamSynchronize(main_stream_);
  launcher_.reset();
  transfers_.reset();
  cudaFree(program_sync_);
  cudaFree(tickets_);
  cudaFree(scratch_);
  cudaStreamDestroy(capture_stream_);
  cudaStreamDestroy(main_stream_);
}

void CudaDevice::use() const { check(cudaSetDevice(index_), "cudaSetDevice"); }

std::string CudaDevice::describe() const {
  return fmt::format("cuda:{}, {}, compute capability {}.{}, {:.0f} GB", index_, properties_.name,
                     properties_.major, properties_.minor,
                     static_cast<double>(properties_.totalGlobalMem) * 1e-9);
}

uint64_t CudaDevice::memory_limit() const {
  return static_cast<uint64_t>(memory_fraction_ * static_cast<double>(total_memory()));
}

uint64_t CudaDevice::available_memory() const {
  use();
  size_t free = 0;
  size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const uint64_t beyond = total - std::min<uint64_t>(total, memory_limit());
  return free > beyond ? free - beyond : 0;
}

void* CudaDevice::allocate(size_t bytes) {
  use();
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is told here, not again by the next launch
    size_t free = 0;
    size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    fail("cuda:{}: out of memory: {:.2f} GB asked for, {:.2f} GB of {:.2f} GB free", index_,
         static_cast<double>(bytes) * 1e-9, static_cast<double>(free) * 1e-9,
         static_cast<double>(total) * 1e-9);
  }
  check(status, "cudaMalloc");
  return data;
}

void CudaDevice::deallocate(void* data, size_t) {
  // Called by destructors: no throwing. Kernels that use the memory may still be under way.
  cudaSetDevice(index_);
  cudaStreamSynchronize(main_stream_);
  cudaFree(data);
}

void CudaDevice::copy_from_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  begin();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copy to the GPU");
}

void CudaDevice::copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  begin();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy from the GPU");
  check(cudaStreamSynchronize(stream_), "copy from the GPU");
}

void CudaDevice::begin_copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  begin();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy from the GPU");
}

void CudaDevice::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  begin();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copy on the GPU");
}

void CudaDevice::synchronize() {
  use();
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

void CudaDevice::upload(void* to, const void* from, size_t bytes) {
  use();
  transfers_->upload(to, from, bytes);
}

void CudaDevice::download(void* to, const void* from, size_t bytes) {
  use();
  transfers_->download(to, from, bytes);
}

void* CudaDevice::allocate_host(size_t bytes) {
  use();
  void* data = nullptr;
  check(cudaHostAlloc(&data, bytes, cudaHostAllocDefault), "cudaHostAlloc");
  return data;
}

void CudaDevice::deallocate_host(void* data, size_t) {
  cudaSetDevice(index_);
  cudaStreamSynchronize(main_stream_);  // copies may be under way
  cudaFreeHost(data);
}

std::unique_ptr<DeviceEvent> CudaDevice::make_event() {
  use();
  return std::make_unique<CudaEvent>(index_, main_stream_);
}

std::unique_ptr<DevicePool> CudaDevice::make_pool(size_t bytes) {
  use();
  if (!MemoryPool::is_supported(index_)) return make_plain_pool(*this, bytes);
  return std::make_unique<MemoryPool>(index_, bytes);
}

std::unique_ptr<DeviceGraph> CudaDevice::capture(const std::function<void()>& work) {
  use();
  Buffer table;
  if (is_hopper()) table = Buffer(*this, kTableBytes);
  Stream capture_stream = stream_;
  capture_stream.handle = capture_stream_;
  ProgramRecorder recorder(
      capture_stream, program_limits(), static_cast<std::byte*>(table.data()), table.bytes(),
      [this](const Operation& operation) { (*launcher_)(stream_, operation); });
  struct Divert {  // other threads go on with the main stream
    CudaDevice& device;
    ~Divert() {
      device.stream_.handle = device.main_stream_;
      device.recorder_ = nullptr;
    }
  } divert{*this};
  stream_.handle = capture_stream_;
  if (is_hopper()) recorder_ = &recorder;
  auto graph = std::make_unique<CudaGraph>(capture_stream_, [&] {
    work();
    recorder.flush();
  });
  if (const std::span<const std::byte> image = recorder.image(); !image.empty()) {
    check(cudaMemcpyAsync(table.data(), image.data(), image.size(), cudaMemcpyHostToDevice,
                          capture_stream_),
          "copy to the GPU");
    check(cudaStreamSynchronize(capture_stream_), "copy to the GPU");
    graph->keep(std::move(table));
  }
  return graph;
}

void CudaDevice::replay(DeviceGraph& graph) {
  use();
  static_cast<CudaGraph&>(graph).launch(main_stream_);
}

ProgramLimits CudaDevice::program_limits() const {
  return {.blocks = properties_.multiProcessorCount,
          .shared_bytes = properties_.sharedMemPerBlockOptin,
          .scratch = scratch_,
          .scratch_bytes = kScratchBytes,
          .sync = program_sync_};
}

void CudaDevice::begin() {
  use();
  if (recorder_ != nullptr) recorder_->flush();
}

void CudaDevice::perform(const Operation& operation) {
  use();
  if (recorder_ != nullptr) {
    recorder_->add(operation);
  } else {
    (*launcher_)(stream_, operation);
  }
}

void CudaDevice::embedding(const Tensor& ids, const Tensor& table, float scale, const Tensor& out) {
  begin();
  cuda::embedding(stream_, ids.as<int32_t>(), rows_of(table), out.dim(0), out.dim(1), scale,
                  rows_of(out));
  check_launch("embedding");
}

void CudaDevice::token_embedding(const Tensor& ids, const Tensor& tokens, const Tensor& rows,
                                 float scale, const Tensor& out) {
  begin();
  cuda::token_embedding(stream_, ids.as<int32_t>(), tokens.as<int32_t>(), tokens.dim(0),
                        rows_of(rows), out.dim(0), out.dim(1), scale, rows_of(out));
  check_launch("token_embedding");
}

void CudaDevice::fill_in_ids(const Tensor& ids, const Tensor& from) {
  begin();
  cuda::fill_in_ids(stream_, ids.as<int32_t>(), ids.numel(), from.as<int32_t>());
  check_launch("fill_in_ids");
}

void CudaDevice::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  perform(norm_args(x, weight, eps, out));
}

void CudaDevice::rms_norm_add(const Tensor& x, const Tensor& weight, float eps,
                              const Tensor& residual) {
  begin();
  cuda::rms_norm(stream_, rows_of(x), weight.as<float>(), x.dim(0), x.dim(1), eps,
                 rows_of(residual), true);
  check_launch("rms_norm_add");
}

void CudaDevice::rms_norm_add_norm(const Tensor& x, const Tensor& weight, float eps,
                                   const Tensor& residual, const Tensor& next_weight,
                                   float next_eps, const Tensor& out) {
  perform(AddNormArgs{.norm = norm_args(x, weight, eps, out),
                      .residual = rows_of(residual),
                      .next_weight = next_weight.as<float>(),
                      .next_eps = next_eps});
}

void CudaDevice::linear(const Tensor& x, const Tensor& weight, const Tensor& out) {
  perform(linear_args(x, weight, out));
}

void CudaDevice::lora(const Tensor& x, LoraTargets targets, const LoraRows& rows,
                      const Tensor& out) {
  begin();
  cuda::lora(stream_, lora_args(x, targets, rows, out), rows.rows.dim(0), scratch_, kScratchBytes);
}

void CudaDevice::linear_lora(const Tensor& x, const Tensor& weight, LoraTargets targets,
                             const LoraRows& rows, const Tensor& out) {
  perform(LoraLinearArgs{.linear = linear_args(x, weight, out),
                         .lora = lora_args(x, targets, rows, out),
                         .n_rows = rows.rows.dim(0),
                         .gated = {}});
}

void CudaDevice::lora_embedding(const Tensor& ids, float multiplier, int64_t module,
                                const LoraRows& rows, const Tensor& out) {
  begin();
  const LoraTarget target = {module, 0, out.dim(1)};
  LoraArgs args = lora_args({&target, 1}, rows, out);
  args.ids = ids.as<int32_t>();
  args.multiplier = multiplier;
  cuda::lora(stream_, args, rows.rows.dim(0), scratch_, kScratchBytes);
}

void CudaDevice::add_silu(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out) {
  begin();
  cuda::add_silu(stream_, rows_of(x), rows_of(h), bias.data, rows_of(out), out.dim(0), out.dim(1));
  check_launch("add_silu");
}

void CudaDevice::rotary(const Tensor& x, const Tensor& positions, const Tensor& cos,
                        const Tensor& sin) {
  begin();
  cuda::rotary(stream_, rows_of(x), x.dim(0), x.dim(1), x.dim(2), positions.as<int32_t>(),
               cos.as<float>(), sin.as<float>());
  check_launch("rotary");
}

void CudaDevice::store_kv(const Tensor& k, const Tensor& v, const Tensor& slots,
                          const PagedKv& kv) {
  begin();
  const int64_t size = static_cast<int64_t>(size_of(k.dtype));
  const int64_t row_bytes = k.dim(1) * k.dim(2) * size;
  cuda::scatter_rows(stream_, k.data, k.stride(0) * size, slots.as<int64_t>(), k.dim(0), row_bytes,
                     kv.key.data);
  check_launch("store_kv (keys)");
  cuda::scatter_rows(stream_, v.data, v.stride(0) * size, slots.as<int64_t>(), v.dim(0), row_bytes,
                     kv.value.data);
  check_launch("store_kv (values)");
}

void CudaDevice::rotary_store_kv(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const Tensor& positions, const Tensor& cos, const Tensor& sin,
                                 const Tensor& slots, const PagedKv& kv) {
  perform(rotary_store_args(q, k, v, positions, cos, sin, slots, kv));
}

void CudaDevice::attention(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                           const AttentionOptions& options, const Tensor& out) {
  perform(attention_args(q, kv, batch, options, out));
}

void CudaDevice::gelu_tanh_mul(const Tensor& gate_up, const Tensor& out) {
  perform(GeluMulArgs{rows_of(gate_up), rows_of(out), out.dim(0), out.dim(1)});
}

void CudaDevice::linear_gelu_tanh_mul(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                                      const Tensor& out) {
  perform(GatedLinearArgs{.linear = linear_args(x, weight, out), .gate_up = rows_of(gate_up)});
}

void CudaDevice::softcap(const Tensor& x, float cap) {
  begin();
  cuda::softcap(stream_, x.as<float>(), x.numel(), cap);
  check_launch("softcap");
}

void CudaDevice::gather_rows(const Tensor& x, const Tensor& indices, const Tensor& out) {
  begin();
  const int64_t size = static_cast<int64_t>(size_of(x.dtype));
  cuda::gather_rows(stream_, x.data, x.stride(0) * size, indices.as<int32_t>(), out.dim(0),
                    x.dim(1) * size, out.data, out.stride(0) * size);
  check_launch("gather_rows");
}

void CudaDevice::scatter_columns(const Tensor& from, const Tensor& columns, const Tensor& out) {
  begin();
  cuda::scatter_columns(stream_, rows_of(from), columns.as<int32_t>(), from.dim(0), from.dim(1),
                        rows_of(out));
  check_launch("scatter_columns");
}

void CudaDevice::row_statistics(const Tensor& logits, const Tensor& ids, RowStatistics* out) {
  begin();
  LORAX_CHECK(statistics_scratch_bytes(logits.dim(0), logits.dim(1)) <= kScratchBytes);
  cuda::row_statistics(stream_, logit_rows(logits), scratch_, ids.as<int32_t>(), out);
  check_launch("row_statistics");
}

void CudaDevice::edit_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                             const LogitEdit* edits, float* saved) {
  begin();
  cuda::edit_logits(stream_, logit_rows(logits), rows, edits, saved);
  check_launch("edit_logits");
}

void CudaDevice::restore_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                                const LogitEdit* edits, const float* saved) {
  begin();
  cuda::restore_logits(stream_, logit_rows(logits), rows, edits, saved);
  check_launch("restore_logits");
}

void CudaDevice::sample(const Tensor& logits, DeviceList<const SampledRow> rows,
                        const Tensor& ids) {
  begin();
  cuda::sample(stream_, logit_rows(logits), rows, ids.as<int32_t>());
  check_launch("sample");
}

void CudaDevice::top_logits(const Tensor& logits, DeviceList<const TopRow> rows, TopLogit* out) {
  begin();
  cuda::top_logits(stream_, logit_rows(logits), rows, out);
  check_launch("top_logits");
}

void CudaDevice::gather_logits(const Tensor& logits, const Tensor& ids, const Tensor& out) {
  begin();
  cuda::gather_logits(stream_, logit_rows(logits), ids.as<int32_t>(), out.as<float>());
  check_launch("gather_logits");
}

}  // namespace lorax::cuda

namespace lorax {

std::unique_ptr<Device> make_cuda_device(int index, double memory_fraction) {
  return std::make_unique<cuda::CudaDevice>(index, memory_fraction);
}

}  // namespace lorax

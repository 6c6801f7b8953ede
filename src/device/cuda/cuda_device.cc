#include "device/cuda/cuda_device.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "device/cuda/cuda_error.h"
#include "device/cuda/graph.h"
#include "device/cuda/lora.h"
#include "device/cuda/memory_pool.h"
#include "device/factories.h"

namespace lorax::cuda {
namespace {

// What cuBLASLt's fastest algorithms on Hopper ask for.
constexpr size_t kScratchBytes = size_t{32} << 20;

Rows rows_of(const Tensor& x) { return {x.data, x.dtype, x.stride(0)}; }

LogitRows logit_rows(const Tensor& logits) {
  return {logits.as<float>(), logits.dim(0), logits.dim(1), logits.stride(0)};
}

LinearArgs linear_args(const Tensor& x, const Tensor& weight, const Tensor& out) {
  return {.x = rows_of(x),
          .weight = weight.data,
          .out = rows_of(out),
          .rows = x.dim(0),
          .m = weight.dim(0),
          .n = weight.dim(1)};
}

// The low-rank parts of `targets`, as far as x and embeddings have them in common.
LoraArgs lora_args(LoraTargets targets, const LoraRows& rows, const Tensor& out) {
  LORAX_CHECK(targets.size() <= kMaxLoraTargets);
  LoraArgs args;
  args.x.dtype = rows.table.dtype;
  args.out = rows_of(out);
  args.n_targets = static_cast<int>(targets.size());
  std::ranges::copy(targets, args.targets);
  args.rows = rows.rows.as<int32_t>();
  args.segments = rows.segments.as<int32_t>();
  args.slots = rows.slots.as<int32_t>();
  args.n_segments = static_cast<int>(rows.slots.dim(0));
  args.entries = rows.table.entries;
  args.modules = rows.table.modules;
  return args;
}

// After a launch: whether it was accepted. What goes wrong while the kernel runs is reported by a
// later call.
void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

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
  }
  check(prepare_decode(), "setting the shared memory of decode attention");
  check(prepare_skinny(), "setting the shared memory of products");
  if (is_hopper()) {
    check(prepare_linear_hopper(), "setting the shared memory of products (Hopper)");
  }
  for (cudaStream_t* stream : {&main_stream_, &capture_stream_}) {
    check(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  stream_ = {.handle = main_stream_,
             .overlaps = properties_.major >= 9,
             .hopper = is_hopper(),
             .multiprocessors = properties_.multiProcessorCount};
  transfers_ = std::make_unique<Transfers>();
  scratch_ = allocate(kScratchBytes);
  const size_t ticket_bytes = kDecodeTickets * sizeof(uint32_t);
  tickets_ = static_cast<uint32_t*>(allocate(ticket_bytes));
  check(cudaMemsetAsync(tickets_, 0, ticket_bytes, main_stream_), "cudaMemsetAsync");
  linear_ = std::make_unique<Linear>(scratch_, kScratchBytes);
}

CudaDevice::~CudaDevice() {
  // Nothing to report to: after a failure of the GPU these calls fail as well.
  cudaSetDevice(index_);
  cudaStreamSynchronize(main_stream_);
  linear_.reset();
  transfers_.reset();
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
  use();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "copy to the GPU");
}

void CudaDevice::copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  use();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy from the GPU");
  check(cudaStreamSynchronize(stream_), "copy from the GPU");
}

void CudaDevice::begin_copy_to_host(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  use();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy from the GPU");
}

void CudaDevice::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  use();
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
  struct Divert {  // other threads go on with the main stream
    Stream& stream;
    cudaStream_t back;
    ~Divert() { stream.handle = back; }
  } divert{stream_, main_stream_};
  stream_.handle = capture_stream_;
  return std::make_unique<CudaGraph>(capture_stream_, work);
}

void CudaDevice::replay(DeviceGraph& graph) {
  use();
  static_cast<CudaGraph&>(graph).launch(main_stream_);
}

void CudaDevice::embedding(const Tensor& ids, const Tensor& table, float scale, const Tensor& out) {
  use();
  cuda::embedding(stream_, ids.as<int32_t>(), rows_of(table), out.dim(0), out.dim(1), scale,
                  rows_of(out));
  check_launch("embedding");
}

void CudaDevice::fill_in_ids(const Tensor& ids, const Tensor& from) {
  use();
  cuda::fill_in_ids(stream_, ids.as<int32_t>(), ids.numel(), from.as<int32_t>());
  check_launch("fill_in_ids");
}

void CudaDevice::rms_norm(const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  use();
  cuda::rms_norm(stream_, rows_of(x), weight.as<float>(), x.dim(0), x.dim(1), eps, rows_of(out),
                 false);
  check_launch("rms_norm");
}

void CudaDevice::rms_norm_add(const Tensor& x, const Tensor& weight, float eps,
                              const Tensor& residual) {
  use();
  cuda::rms_norm(stream_, rows_of(x), weight.as<float>(), x.dim(0), x.dim(1), eps,
                 rows_of(residual), true);
  check_launch("rms_norm_add");
}

void CudaDevice::rms_norm_add_norm(const Tensor& x, const Tensor& weight, float eps,
                                   const Tensor& residual, const Tensor& next_weight,
                                   float next_eps, const Tensor& out) {
  use();
  cuda::rms_norm_add_norm(stream_, rows_of(x), weight.as<float>(), x.dim(0), x.dim(1), eps,
                          rows_of(residual), next_weight.as<float>(), next_eps, rows_of(out));
  check_launch("rms_norm_add_norm");
}

void CudaDevice::linear(const Tensor& x, const Tensor& weight, const Tensor& out) {
  use();
  (*linear_)(stream_, linear_args(x, weight, out));
}

void CudaDevice::lora(const Tensor& x, LoraTargets targets, const LoraRows& rows,
                      const Tensor& out) {
  use();
  LoraArgs args = lora_args(targets, rows, out);
  args.x = rows_of(x);
  args.n = x.dim(1);
  cuda::lora(stream_, args, rows.rows.dim(0), scratch_, kScratchBytes);
}

void CudaDevice::linear_lora(const Tensor& x, const Tensor& weight, LoraTargets targets,
                             const LoraRows& rows, const Tensor& out) {
  use();
  const LinearArgs linear = linear_args(x, weight, out);
  LoraArgs args = lora_args(targets, rows, out);
  args.x = rows_of(x);
  args.n = x.dim(1);
  if (Linear::is_aligned(linear) &&
      cuda::linear_lora(stream_, linear, args, rows.rows.dim(0), scratch_, kScratchBytes)) {
    return;
  }
  Device::linear_lora(x, weight, targets, rows, out);
}

void CudaDevice::lora_embedding(const Tensor& ids, float multiplier, int64_t module,
                                const LoraRows& rows, const Tensor& out) {
  use();
  const LoraTarget target = {module, 0, out.dim(1)};
  LoraArgs args = lora_args({&target, 1}, rows, out);
  args.ids = ids.as<int32_t>();
  args.multiplier = multiplier;
  cuda::lora(stream_, args, rows.rows.dim(0), scratch_, kScratchBytes);
}

void CudaDevice::add_silu(const Tensor& x, const Tensor& h, const Tensor& bias, const Tensor& out) {
  use();
  cuda::add_silu(stream_, rows_of(x), rows_of(h), bias.data, rows_of(out), out.dim(0), out.dim(1));
  check_launch("add_silu");
}

void CudaDevice::rotary(const Tensor& x, const Tensor& positions, const Tensor& cos,
                        const Tensor& sin) {
  use();
  cuda::rotary(stream_, rows_of(x), x.dim(0), x.dim(1), x.dim(2), positions.as<int32_t>(),
               cos.as<float>(), sin.as<float>());
  check_launch("rotary");
}

void CudaDevice::store_kv(const Tensor& k, const Tensor& v, const Tensor& slots,
                          const PagedKv& kv) {
  use();
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
  use();
  cuda::rotary_store(stream_, {.q = rows_of(q),
                               .k = rows_of(k),
                               .v = rows_of(v),
                               .rows = q.dim(0),
                               .heads = q.dim(1),
                               .kv_heads = k.dim(1),
                               .head_size = q.dim(2),
                               .positions = positions.as<int32_t>(),
                               .cos = cos.as<float>(),
                               .sin = sin.as<float>(),
                               .slots = slots.as<int64_t>(),
                               .key = kv.key.data,
                               .value = kv.value.data});
  check_launch("rotary_store_kv");
}

void CudaDevice::attention(const Tensor& q, const PagedKv& kv, const AttentionBatch& batch,
                           const AttentionOptions& options, const Tensor& out) {
  use();
  const AttentionArgs args{.q = q.data,
                           .q_stride = q.stride(0),
                           .key = kv.key.data,
                           .value = kv.value.data,
                           .out = out.data,
                           .cu_seqlens_q = batch.cu_seqlens_q.as<int32_t>(),
                           .kv_lengths = batch.kv_lengths.as<int32_t>(),
                           .block_tables = batch.block_tables.as<int32_t>(),
                           .max_blocks = static_cast<int>(batch.block_tables.dim(1)),
                           .block_size = static_cast<int>(kv.key.dim(1)),
                           .blocks = kv.key.dim(0),
                           .sequences = static_cast<int>(batch.block_tables.dim(0)),
                           .tokens = q.dim(0),
                           .heads = static_cast<int>(q.dim(1)),
                           .kv_heads = static_cast<int>(kv.key.dim(2)),
                           .head_size = static_cast<int>(q.dim(2)),
                           .max_q = batch.max_q,
                           .max_kv = batch.max_kv,
                           .scale = options.scale,
                           .softcap = options.softcap,
                           .window = options.window};
  if (q.dtype == DType::kFloat32) {
    attention_float32(stream_, args);
    check_launch("attention_float32");
    return;
  }
  if (batch.max_q > 1) {
    if (!is_hopper() || !attention_prefill_hopper(stream_, args)) attention_prefill(stream_, args);
    check_launch("attention_prefill");
  }
  // A step of several sequences may hold some of one row, whatever its longest is.
  if (batch.max_q == 1 || args.sequences > 1) {
    attention_decode(stream_, args, scratch_, kScratchBytes, tickets_);
    check_launch("attention_decode");
  }
}

void CudaDevice::gelu_tanh_mul(const Tensor& gate_up, const Tensor& out) {
  use();
  cuda::gelu_tanh_mul(stream_, rows_of(gate_up), rows_of(out), out.dim(0), out.dim(1));
  check_launch("gelu_tanh_mul");
}

void CudaDevice::linear_gelu_tanh_mul(const Tensor& x, const Tensor& weight, const Tensor& gate_up,
                                      const Tensor& out) {
  const LinearArgs args = linear_args(x, weight, out);
  if (args.rows == 0 || args.m == 0 || args.rows > kGatedRows || !Linear::is_skinny(args)) {
    return Device::linear_gelu_tanh_mul(x, weight, gate_up, out);
  }
  use();
  skinny_linear_gelu_tanh_mul(stream_, args);
  check_launch("linear_gelu_tanh_mul");
}

void CudaDevice::softcap(const Tensor& x, float cap) {
  use();
  cuda::softcap(stream_, x.as<float>(), x.numel(), cap);
  check_launch("softcap");
}

void CudaDevice::gather_rows(const Tensor& x, const Tensor& indices, const Tensor& out) {
  use();
  const int64_t size = static_cast<int64_t>(size_of(x.dtype));
  cuda::gather_rows(stream_, x.data, x.stride(0) * size, indices.as<int32_t>(), out.dim(0),
                    x.dim(1) * size, out.data, out.stride(0) * size);
  check_launch("gather_rows");
}

void CudaDevice::row_statistics(const Tensor& logits, const Tensor& ids, RowStatistics* out) {
  use();
  LORAX_CHECK(statistics_scratch_bytes(logits.dim(0), logits.dim(1)) <= kScratchBytes);
  cuda::row_statistics(stream_, logit_rows(logits), scratch_, ids.as<int32_t>(), out);
  check_launch("row_statistics");
}

void CudaDevice::edit_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                             const LogitEdit* edits, float* saved) {
  use();
  cuda::edit_logits(stream_, logit_rows(logits), rows, edits, saved);
  check_launch("edit_logits");
}

void CudaDevice::restore_logits(const Tensor& logits, DeviceList<const EditedRow> rows,
                                const LogitEdit* edits, const float* saved) {
  use();
  cuda::restore_logits(stream_, logit_rows(logits), rows, edits, saved);
  check_launch("restore_logits");
}

void CudaDevice::sample(const Tensor& logits, DeviceList<const SampledRow> rows,
                        const Tensor& ids) {
  use();
  cuda::sample(stream_, logit_rows(logits), rows, ids.as<int32_t>());
  check_launch("sample");
}

void CudaDevice::top_logits(const Tensor& logits, DeviceList<const TopRow> rows, TopLogit* out) {
  use();
  cuda::top_logits(stream_, logit_rows(logits), rows, out);
  check_launch("top_logits");
}

void CudaDevice::gather_logits(const Tensor& logits, const Tensor& ids, const Tensor& out) {
  use();
  cuda::gather_logits(stream_, logit_rows(logits), ids.as<int32_t>(), out.as<float>());
  check_launch("gather_logits");
}

}  // namespace lorax::cuda

namespace lorax {

std::unique_ptr<Device> make_cuda_device(int index, double memory_fraction) {
  return std::make_unique<cuda::CudaDevice>(index, memory_fraction);
}

}  // namespace lorax

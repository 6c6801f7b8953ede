// The kernel that carries out programs.
#include "device/cuda/hopper.cuh"
#include "device/cuda/launch.cuh"
#include "device/cuda/program.h"
#include "device/cuda/program_attention.cuh"
#include "device/cuda/program_norm.cuh"
#include "device/cuda/program_product.cuh"

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#pragma nv_diag_suppress 177  // of other architectures the kernel is empty and uses nothing of this
#endif

namespace lorax::cuda {
namespace {

// With the warpgroup of the feeding warp, which gives its registers to the others.
constexpr int kBlockThreads = kProgramThreads + 128;
constexpr int kMinDepth = 3;
constexpr int kMaxDepth = 12;  // more is never under way

constexpr int kInstructionWords = sizeof(Instruction) / 4;
static_assert(sizeof(Instruction) % 8 == 0 && kInstructionWords <= kProgramThreads);

// Shared memory of every program; behind it lie the stage and the ring.
struct Fixed {
  union {
    ProductSums product;
    NormSums norm;
  } sums;
  alignas(16) uint32_t instructions[2][kInstructionWords];  // the one under way, and the next
  alignas(8) uint64_t barriers[2 * kMaxDepth];
  int is_last;
};

constexpr int round_up(int bytes) { return (bytes + 127) / 128 * 128; }
constexpr int kFixedBytes = round_up(sizeof(Fixed));

__device__ void run_instructions(const ProgramArgs& args, Fixed& fixed, const Ring& ring,
                                 unsigned char* stage) {
  bfloat16* staged = reinterpret_cast<bfloat16*>(stage);
  AttentionRoom& room = *reinterpret_cast<AttentionRoom*>(stage);
  const auto load_word = [&](int number) {
    return threadIdx.x < kInstructionWords && number < args.n_instructions
               ? __ldg(reinterpret_cast<const uint32_t*>(args.instructions + number) + threadIdx.x)
               : 0;
  };
  const auto keep_word = [&](int number, uint32_t word) {
    if (threadIdx.x < kInstructionWords) fixed.instructions[number % 2][threadIdx.x] = word;
  };
  keep_word(0, load_word(0));
  sync_block();
  uint32_t waits = 0;
  uint32_t products = 0;
  RingPlace place;
#pragma unroll 1
  for (int i = 0; i < args.n_instructions; ++i) {
    const uint32_t next_word = load_word(i + 1);
    const Instruction& instruction =
        *reinterpret_cast<const Instruction*>(fixed.instructions[i % 2]);
    const BlockWait wait(args.sync, instruction.waits != 0, waits);
    switch (instruction.kind) {
      case Instruction::kProduct:
        wait();
        run_product(instruction.product, args, ++products, ring, place, staged, fixed.sums.product);
        break;
      case Instruction::kNorm:
        run_norm(instruction.norm, staged, fixed.sums.norm, wait);
        break;
      case Instruction::kRotaryStore:
        wait();
        run_rotary_store(instruction.rotary_store);
        break;
      case Instruction::kAttention:
        run_attention(instruction.attention, room, wait);
        break;
      case Instruction::kMerge:
        run_merge(instruction.attention, room, wait);
        break;
    }
    keep_word(i + 1, next_word);
    sync_block();
  }
}

// The last block to end leaves zeros behind.
__device__ void reset(ProgramSync* sync, Fixed& fixed) {
  if (threadIdx.x == 0) fixed.is_last = atomicAdd(&sync->exits, 1u) == gridDim.x - 1 ? 1 : 0;
  sync_block();
  if (fixed.is_last == 0) return;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kProgramThreads) {
    sync->pieces[block] = 0;
  }
  if (threadIdx.x == 0) {
    sync->arrivals = 0;
    sync->exits = 0;
  }
}

__global__ void __launch_bounds__(kBlockThreads, 1)
    program_kernel(const __grid_constant__ ProgramArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(128) unsigned char shared[];
  Fixed& fixed = *reinterpret_cast<Fixed*>(shared);
  unsigned char* stage = shared + kFixedBytes;
  const Ring ring{shared_address(stage + args.stage_bytes), shared_address(fixed.barriers),
                  args.ring_depth};
  if (threadIdx.x == 0) ring.init();
  __syncthreads();
  if (threadIdx.x >= kProgramThreads) {
    shrink_registers<56>();
    if (threadIdx.x < kProgramThreads + 32) feed(args, ring);
  } else {
    grow_registers<224>();
    wait_for_previous();
    run_instructions(args, fixed, ring, stage);
    reset(args.sync, fixed);
  }
#endif
}

int stage_bytes(const Program& program) { return round_up(program.stage_bytes); }

int ring_depth(const Program& program, const ProgramLimits& limits) {
  const int room =
      static_cast<int>(limits.shared_bytes) - kFixedBytes - round_up(program.stage_bytes);
  return room / kSlotBytes < kMaxDepth ? room / kSlotBytes : kMaxDepth;
}

}  // namespace

bool can_launch(const Program& program, const ProgramLimits& limits) {
  return limits.blocks <= ProgramSync::kMaxBlocks && ring_depth(program, limits) >= kMinDepth;
}

void launch_program(Stream stream, const Program& program, const void* table,
                    const ProgramLimits& limits) {
  const Instruction* instructions = static_cast<const Instruction*>(table);
  const ProgramArgs args{.instructions = instructions,
                         .products = reinterpret_cast<const ProgramProduct*>(
                             instructions + program.instructions.size()),
                         .n_instructions = static_cast<int>(program.instructions.size()),
                         .n_products = static_cast<int>(program.products.size()),
                         .stage_bytes = stage_bytes(program),
                         .ring_depth = ring_depth(program, limits),
                         .pieces = static_cast<float*>(limits.scratch),
                         .sync = limits.sync};
  const size_t shared_bytes =
      static_cast<size_t>(kFixedBytes + args.stage_bytes + args.ring_depth * kSlotBytes);
  launch(stream, static_cast<unsigned>(limits.blocks), kBlockThreads, shared_bytes, program_kernel,
         args);
}

cudaError_t prepare_programs(size_t shared_bytes) {
  return cudaFuncSetAttribute(program_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared_bytes));
}

}  // namespace lorax::cuda

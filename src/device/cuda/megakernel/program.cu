// The kernel that carries out programs.
#include "device/cuda/megakernel/program.h"
#include "device/cuda/megakernel/program_merge.cuh"
#include "device/cuda/megakernel/program_norm.cuh"
#include "device/cuda/megakernel/program_product.cuh"
#include "device/cuda/megakernel/program_rotary.cuh"
#include "device/cuda/ops/launch.cuh"
#include "device/cuda/ptx/hopper.cuh"

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#pragma nv_diag_suppress 177  // of other architectures the kernel is empty and uses nothing of this
#endif

namespace lorax::cuda {
namespace {

// With the warpgroup of the feeder, the messenger and the adapter warps, which gives registers to
// the others.
constexpr int kBlockThreads = kProgramThreads + 128;
constexpr int kSlotAlignment = 1024;  // of the swizzle
constexpr int kMinDepth = 3;
constexpr int kMaxDepth = 13;  // more would not fit

constexpr int kInstructionSlots = 4;

// Shared memory of every program; behind it lie the stage, the room for low-rank parts and the
// ring.
struct Fixed {
  ProductSums product_sums;
  NormSums norm_sums;
  alignas(16) unsigned char instructions[kInstructionSlots][sizeof(Instruction)];
  alignas(8) uint64_t instruction_barriers[kInstructionSlots];
  alignas(8) uint64_t messenger_barriers[2];
  alignas(8) uint64_t barriers[2 * kMaxDepth];
  Round rounds[kMaxDepth];
  RingPlace place;
  Known known;
  int is_last;
};

constexpr int kFixedBytes = (sizeof(Fixed) + 127) / 128 * 128;
constexpr int kLoraRoomBytes = (sizeof(LoraRoom) + 127) / 128 * 128;

// Has the copy engine bring instruction i, by one thread.
__device__ void bring_instruction(const ProgramArgs& args, Fixed& fixed, int i) {
  if (i >= args.n_instructions) return;
  const int slot = i % kInstructionSlots;
  const uint32_t barrier = shared_address(&fixed.instruction_barriers[slot]);
  arrive_expecting(barrier, sizeof(Instruction));
  copy_bytes(shared_address(fixed.instructions[slot]), args.instructions + i, sizeof(Instruction),
             barrier);
}

// What lasts from one instruction to the next lies in shared memory: registers would be spilled in
// those that need them all, and each look at a spilled one is a trip to the L2 cache, as waiting
// for other blocks empties L1.
__device__ void run_instructions(const ProgramArgs& args, Fixed& fixed, const Ring& ring,
                                 const Messenger& messenger, unsigned char* stage,
                                 LoraRoom* lora_room) {
  bfloat16* staged = reinterpret_cast<bfloat16*>(stage);
  AttentionRoom& room = *reinterpret_cast<AttentionRoom*>(stage);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kInstructionSlots - 1; ++i) bring_instruction(args, fixed, i);
  }
#pragma unroll 1
  for (int i = 0; i < args.n_instructions; ++i) {
    if (threadIdx.x == 0) bring_instruction(args, fixed, i + kInstructionSlots - 1);
    const int slot = i % kInstructionSlots;
    wait(shared_address(&fixed.instruction_barriers[slot]), i / kInstructionSlots % 2);
    const Instruction& instruction =
        *reinterpret_cast<const Instruction*>(fixed.instructions[slot]);
    const BlockWait wait_for_blocks(messenger, instruction.wait);
    switch (instruction.kind) {
      case Instruction::kProduct:
        wait_for_blocks();
        run_product(instruction.product, ring, fixed.place, staged, fixed.product_sums, lora_room);
        break;
      case Instruction::kSum:
        wait_for_blocks();
        run_sum(instruction.sum);
        break;
      case Instruction::kNorm:
        run_norm(instruction.norm, staged, fixed.norm_sums, wait_for_blocks);
        break;
      case Instruction::kRotaryStore:
        wait_for_blocks();
        run_rotary_store(instruction.rotary_store);
        break;
      case Instruction::kAttention:
        run_attention(instruction.attention, room, fixed.known, wait_for_blocks);
        break;
      case Instruction::kMerge:
        run_merge(instruction.attention, fixed.known, wait_for_blocks);
        break;
    }
    sync_block();
  }
}

// The last block to end leaves zeros behind.
__device__ void reset(const ProgramArgs& args, Fixed& fixed) {
  ProgramSync* sync = args.sync;
  if (threadIdx.x == 0) fixed.is_last = atomicAdd(&sync->exits, 1u) == gridDim.x - 1 ? 1 : 0;
  sync_block();
  if (fixed.is_last == 0) return;
  for (int i = threadIdx.x; i < args.n_claims; i += kProgramThreads) sync->claims[i] = 0;
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
  unsigned char* behind_stage = stage + args.stage_bytes;
  LoraRoom* lora_room = args.has_lora != 0 ? reinterpret_cast<LoraRoom*>(behind_stage) : nullptr;
  const int lora_bytes = args.has_lora != 0 ? kLoraRoomBytes : 0;
  const uint32_t slots = (shared_address(behind_stage + lora_bytes) + kSlotAlignment - 1) /
                         kSlotAlignment * kSlotAlignment;
  const Ring ring{fixed.rounds, slots, shared_address(fixed.barriers), args.ring_depth};
  const Messenger messenger{shared_address(&fixed.messenger_barriers[0]),
                            shared_address(&fixed.messenger_barriers[1])};
  if (threadIdx.x == 0) {
    messenger.init();
    for (uint64_t& barrier : fixed.instruction_barriers) init_barrier(shared_address(&barrier), 1);
    ring.init();
    fixed.place = {};
    fixed.known.forget();
  }
  __syncthreads();
  if (threadIdx.x >= kProgramThreads) {
    shrink_registers<80>();
    if (threadIdx.x == kProgramThreads) {
      Feeder(ring).run(args);
    } else if (threadIdx.x == kProgramThreads + 32) {
      messenger.run(args.sync, args.n_waits);
    } else if (args.has_lora != 0 && threadIdx.x >= kBlockThreads - kAdapterThreads) {
      AdapterWarps(threadIdx.x - (kBlockThreads - kAdapterThreads),
                   reinterpret_cast<const bfloat16*>(stage), *lora_room, messenger)
          .run(args);
    }
  } else {
    grow_registers<208>();
    wait_for_previous();
    run_instructions(args, fixed, ring, messenger, stage, lora_room);
    reset(args, fixed);
  }
#endif
}

int stage_bytes(const Program& program) { return (program.stage_bytes + 127) / 128 * 128; }

// What lies before the ring's slots, at most.
int bytes_before_ring(const Program& program) {
  const int lora_bytes = program.has_lora ? kLoraRoomBytes : 0;
  return kFixedBytes + stage_bytes(program) + lora_bytes + kSlotAlignment;
}

int ring_depth(const Program& program, const ProgramLimits& limits) {
  const int room = static_cast<int>(limits.shared_bytes) - bytes_before_ring(program);
  return room / kSlotBytes < kMaxDepth ? room / kSlotBytes : kMaxDepth;
}

}  // namespace

bool can_launch(const Program& program, const ProgramLimits& limits) {
  return program.claims <= ProgramSync::kMaxClaims && ring_depth(program, limits) >= kMinDepth;
}

void launch_program(Stream stream, const Program& program, const void* table,
                    const ProgramLimits& limits) {
  const CUtensorMap* maps = static_cast<const CUtensorMap*>(table);
  const Instruction* instructions =
      reinterpret_cast<const Instruction*>(maps + program.products.size());
  const ProgramArgs args{.maps = maps,
                         .instructions = instructions,
                         .products = reinterpret_cast<const ProgramProduct*>(
                             instructions + program.instructions.size()),
                         .n_instructions = static_cast<int>(program.instructions.size()),
                         .n_products = static_cast<int>(program.products.size()),
                         .n_waits = program.waits,
                         .n_claims = program.claims,
                         .has_lora = program.has_lora ? 1 : 0,
                         .stage_bytes = stage_bytes(program),
                         .ring_depth = ring_depth(program, limits),
                         .sync = limits.sync};
  const size_t shared_bytes =
      static_cast<size_t>(bytes_before_ring(program) + args.ring_depth * kSlotBytes);
  launch(stream, static_cast<unsigned>(limits.blocks), kBlockThreads, shared_bytes, program_kernel,
         args);
}

cudaError_t prepare_programs(size_t shared_bytes) {
  return cudaFuncSetAttribute(program_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared_bytes));
}

}  // namespace lorax::cuda

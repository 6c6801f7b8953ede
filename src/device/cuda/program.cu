// The kernel that carries out programs.
#include "device/cuda/launch.cuh"
#include "device/cuda/program.h"
#include "device/cuda/program_attention.cuh"
#include "device/cuda/program_norm.cuh"
#include "device/cuda/program_product.cuh"

namespace lorax::cuda {
namespace {

constexpr int kInstructionWords = sizeof(Instruction) / 4;
static_assert(sizeof(Instruction) % 8 == 0 && kInstructionWords <= kProgramThreads);

struct Fixed {  // shared memory of every program
  union {
    ProductSums product;
    NormSums norm;
  } sums;
  int is_last;
  alignas(16) uint32_t instructions[2][kInstructionWords];  // the one under way, and the next
};

constexpr int kFixedBytes = (sizeof(Fixed) + 127) / 128 * 128;

// Rounds of weights that are under way: as many as shared memory has room for.
constexpr int ring_bytes(int depth) { return depth * kProgramWarps * kSlotBytes; }

template <int kDepth>
__global__ void __launch_bounds__(kProgramThreads, 1)
    program_kernel(const __grid_constant__ ProgramArgs args) {
  extern __shared__ __align__(128) unsigned char shared[];
  Fixed& fixed = *reinterpret_cast<Fixed*>(shared);
  unsigned char* stage = shared + kFixedBytes;
  bfloat16* staged = reinterpret_cast<bfloat16*>(stage);
  const uint32_t warp = threadIdx.x / 32;
  const auto load_word = [&](int number) {
    return threadIdx.x < kInstructionWords && number < args.n_instructions
               ? __ldg(reinterpret_cast<const uint32_t*>(args.instructions + number) + threadIdx.x)
               : 0;
  };
  if (threadIdx.x < kInstructionWords) fixed.instructions[0][threadIdx.x] = load_word(0);
  Ring<kDepth> ring(args, shared_address(stage + args.stage_bytes) + warp * kDepth * kSlotBytes);
  wait_for_previous();
  __syncthreads();
  uint32_t waits = 0;
  uint32_t products = 0;
  for (int i = 0; i < args.n_instructions; ++i) {
    const uint32_t next_word = load_word(i + 1);
    const Instruction& instruction =
        *reinterpret_cast<const Instruction*>(fixed.instructions[i % 2]);
    if (instruction.waits != 0) wait_for_blocks(args.sync, ++waits);
    switch (instruction.kind) {
      case Instruction::kProduct:
        run_product(instruction.product, args, ++products, ring, staged, fixed.sums.product);
        break;
      case Instruction::kNorm:
        run_norm(instruction.norm, staged, fixed.sums.norm);
        break;
      case Instruction::kRotaryStore:
        run_rotary_store(instruction.rotary_store);
        break;
      case Instruction::kAttention:
        run_attention(instruction.attention, *reinterpret_cast<AttentionRoom*>(stage));
        break;
      case Instruction::kMerge:
        run_merge(instruction.attention, *reinterpret_cast<AttentionRoom*>(stage));
        break;
    }
    if (threadIdx.x < kInstructionWords) fixed.instructions[(i + 1) % 2][threadIdx.x] = next_word;
    __syncthreads();
  }
  // The last block to end leaves zeros behind.
  if (threadIdx.x == 0) {
    fixed.is_last = atomicAdd(&args.sync->exits, 1u) == gridDim.x - 1 ? 1 : 0;
  }
  __syncthreads();
  if (fixed.is_last == 0) return;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += kProgramThreads) {
    args.sync->pieces[block] = 0;
  }
  if (threadIdx.x == 0) {
    args.sync->arrivals = 0;
    args.sync->exits = 0;
  }
}

template <int kDepth>
struct Variant {
  static constexpr int kBytes = kFixedBytes + ring_bytes(kDepth);

  static cudaError_t prepare(size_t shared_bytes) {
    if (static_cast<size_t>(kBytes) > shared_bytes) return cudaSuccess;
    return cudaFuncSetAttribute(program_kernel<kDepth>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(shared_bytes));
  }
  static bool fits(int stage_bytes, size_t shared_bytes) {
    return static_cast<size_t>(kBytes + stage_bytes) <= shared_bytes;
  }
  static void launch(Stream stream, const ProgramArgs& args, int blocks) {
    cuda::launch(stream, static_cast<unsigned>(blocks), kProgramThreads,
                 static_cast<size_t>(kBytes + args.stage_bytes), program_kernel<kDepth>, args);
  }
};

// Calls function(Variant<kDepth>()) with the deepest ring that leaves room for the stage; false if
// none does.
template <typename Function>
bool visit_variant(int stage_bytes, size_t shared_bytes, const Function& function) {
  const auto visit = [&](auto variant) {
    if (!variant.fits(stage_bytes, shared_bytes)) return false;
    function(variant);
    return true;
  };
  return visit(Variant<12>()) || visit(Variant<11>()) || visit(Variant<8>()) || visit(Variant<4>());
}

int stage_bytes(const Program& program) { return (program.stage_bytes + 127) / 128 * 128; }

}  // namespace

bool can_launch(const Program& program, const ProgramLimits& limits) {
  return limits.blocks <= ProgramSync::kMaxBlocks &&
         visit_variant(stage_bytes(program), limits.shared_bytes, [](auto) {});
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
                         .pieces = static_cast<float*>(limits.scratch),
                         .sync = limits.sync};
  visit_variant(args.stage_bytes, limits.shared_bytes,
                [&](auto variant) { variant.launch(stream, args, limits.blocks); });
}

cudaError_t prepare_programs(size_t shared_bytes) {
  for (auto* prepare :
       {Variant<12>::prepare, Variant<11>::prepare, Variant<8>::prepare, Variant<4>::prepare}) {
    if (const cudaError_t status = prepare(shared_bytes); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace lorax::cuda

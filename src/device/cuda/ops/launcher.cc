#include "device/cuda/ops/launcher.h"

#include <variant>

#include "device/cuda/lora/lora.h"
#include "device/cuda/runtime/cuda_error.h"

namespace lorax::cuda {

Launcher::Launcher(const Room& room)
    : room_(room), linear_(room.scratch, room.scratch_bytes, room.tickets) {}

void Launcher::operator()(Stream stream, const Operation& operation) {
  std::visit([&](const auto& args) { launch(stream, args); }, operation);
}

void Launcher::launch(Stream stream, const LinearArgs& args) { linear_(stream, args); }

void Launcher::launch(Stream stream, const GatedLinearArgs& args) {
  const LinearArgs& linear = args.linear;
  if (linear.rows == 0 || linear.m == 0) return;
  if (linear_.gelu_tanh_mul(stream, linear)) return;
  LinearArgs gate_up = linear;
  gate_up.out = args.gate_up;
  linear_(stream, gate_up);
  launch(stream, GeluMulArgs{args.gate_up, linear.out, linear.rows, linear.m / 2});
}

void Launcher::launch(Stream stream, const LoraLinearArgs& args) {
  const LinearArgs& linear = args.linear;
  if (!Linear::is_aligned(linear) ||
      !linear_lora(stream, linear, args.lora, args.n_rows, room_.scratch, room_.scratch_bytes)) {
    linear_(stream, linear);
    lora(stream, args.lora, args.n_rows, room_.scratch, room_.scratch_bytes);
  }
  if (args.gated.data == nullptr) return;
  launch(stream, GeluMulArgs{linear.out, args.gated, linear.rows, linear.m / 2});
}

void Launcher::launch(Stream stream, const GeluMulArgs& args) {
  gelu_tanh_mul(stream, args.gate_up, args.out, args.rows, args.width);
  check_launch("gelu_tanh_mul");
}

void Launcher::launch(Stream stream, const NormArgs& args) {
  rms_norm(stream, args.x, args.weight, args.rows, args.width, args.eps, args.out, false);
  check_launch("rms_norm");
}

void Launcher::launch(Stream stream, const AddNormArgs& args) {
  const NormArgs& norm = args.norm;
  rms_norm_add_norm(stream, norm.x, norm.weight, norm.rows, norm.width, norm.eps, args.residual,
                    args.next_weight, args.next_eps, norm.out);
  check_launch("rms_norm_add_norm");
}

void Launcher::launch(Stream stream, const RotaryStoreArgs& args) {
  rotary_store(stream, args);
  check_launch("rotary_store_kv");
}

void Launcher::launch(Stream stream, const AttentionArgs& args) {
  if (args.dtype == DType::kFloat32) {
    attention_float32(stream, args);
    check_launch("attention_float32");
    return;
  }
  if (args.max_q > 1) {
    if (!stream.hopper || !attention_prefill_hopper(stream, args)) attention_prefill(stream, args);
    check_launch("attention_prefill");
  }
  // A step of several sequences may hold some of one row, whatever its longest is.
  if (args.max_q == 1 || args.sequences > 1) {
    attention_decode(stream, args, room_.scratch, room_.scratch_bytes, room_.tickets);
    check_launch("attention_decode");
  }
}

}  // namespace lorax::cuda

#include "cli/bench_measurement.h"

#include <fmt/format.h>

namespace lorax::cli {

boost::json::object to_json(const Measurement& m, double peak) {
  boost::json::object object = {{"phase", m.phase},
                                {"batch", m.batch},
                                {"prompt", m.prompt},
                                {"adapters", m.adapters},
                                {"adapter_gb", m.adapter_gb},
                                {"kv_gb", m.kv_gb},
                                {"ms_per_step", m.seconds * 1e3},
                                {"host_ms_per_step", m.host_seconds * 1e3},
                                {"device_ms_per_step", m.device_seconds * 1e3},
                                {"tokens_per_s", m.tokens_per_second},
                                {"weight_gb_per_s", m.weight_gb_per_second},
                                {"tflop_per_s", m.tflop_per_second},
                                {"attention_tflop_per_s", m.attention_tflop_per_second},
                                {"read_gb_per_s", m.read_gb_per_second},
                                {"ratio_to_read", m.ratio_to_read},
                                {"ratio_of_bytes", m.ratio_of_bytes},
                                {"graphs", m.graphs.graphs},
                                {"graph_s", m.graphs.seconds},
                                {"graph_mb", static_cast<double>(m.graphs.bytes) * 1e-6}};
  if (peak > 0.0) {
    object["products_of_peak"] = m.tflop_per_second / peak;
    object["products_and_attention_of_peak"] =
        (m.tflop_per_second + m.attention_tflop_per_second) / peak;
  }
  return object;
}

std::string measurement_header() {
  return fmt::format(
      "{:8} {:>6} {:>7} {:>8} {:>10} {:>8} {:>10} {:>10} {:>13} {:>9} {:>10} {:>10} {:>6} {:>9} "
      "{:>9}",
      "phase", "batch", "prompt", "adapters", "ms/step", "host ms", "device ms", "tokens/s",
      "weights GB/s", "TFLOP/s", "attention", "read GB/s", "ratio", "of bytes", "of peak");
}

std::string measurement_row(const Measurement& m, double peak) {
  return fmt::format(
      "{:8} {:>6} {:>7} {:>8} {:>10.3f} {:>8.3f} {:>10.3f} {:>10.2f} {:>13.2f} {:>9.3f} {:>10.3f} "
      "{:>10.2f} {:>6.2f} {:>9.2f} {:>9}",
      m.phase, m.batch, m.prompt, m.adapters, m.seconds * 1e3, m.host_seconds * 1e3,
      m.device_seconds * 1e3, m.tokens_per_second, m.weight_gb_per_second, m.tflop_per_second,
      m.attention_tflop_per_second, m.read_gb_per_second, m.ratio_to_read, m.ratio_of_bytes,
      peak > 0.0 ? fmt::format("{:.2f} {:.2f}", m.tflop_per_second / peak,
                               (m.tflop_per_second + m.attention_tflop_per_second) / peak)
                 : "");
}

}  // namespace lorax::cli

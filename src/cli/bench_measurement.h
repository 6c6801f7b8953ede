// What `lorax bench` says of one case of bare steps.
#pragma once

#include <cstdint>
#include <string>

#include <boost/json/object.hpp>

#include "engine/run/model_runner.h"

namespace lorax::cli {

struct Measurement {
  std::string phase;  // "prefill" or "decode"
  int64_t batch = 0;
  int64_t prompt = 0;
  int64_t adapters = 0;         // distinct ones in the batch
  double adapter_gb = 0.0;      // of their A and B, which a step reads once
  double kv_gb = 0.0;           // of the keys and values that a decode step reads, windows aside
  double seconds = 0.0;         // of one step, from its call to the end of its work
  double host_seconds = 0.0;    // of these, until the host was free again
  double device_seconds = 0.0;  // of a step while the next ones wait in the device's queue
  double tokens_per_second = 0.0;
  double weight_gb_per_second = 0.0;
  double tflop_per_second = 0.0;            // of the products with weights
  double attention_tflop_per_second = 0.0;  // of attention, in the same time
  // The machine's bandwidth in between; of a GPU that of copying, reads and writes counted.
  double read_gb_per_second = 0.0;
  double ratio_to_read = 0.0;   // weight_gb_per_second over it, step by step
  double ratio_of_bytes = 0.0;  // the same for weights, keys and values, and adapters
  GraphStats graphs = {};
};

// As an entry of "results" and as a line of the table. `peak`: TFLOP/s of a large product, 0
// where it was not measured.
boost::json::object to_json(const Measurement& m, double peak);
std::string measurement_header();
std::string measurement_row(const Measurement& m, double peak);

}  // namespace lorax::cli

// Metrics as JSON, for who asks for application/json instead of Prometheus' text:
// {"name": {"type": "counter", "data": [{"key": {"label": "value"}, "value": 1}]}}.
// A histogram's value is {"count": n, "sum": s, "buckets": {"0.5": cumulative count}}.
#pragma once

#include <span>
#include <string>

#include <prometheus/metric_family.h>

namespace lorax {

std::string metrics_json(std::span<const prometheus::MetricFamily> families);

}  // namespace lorax

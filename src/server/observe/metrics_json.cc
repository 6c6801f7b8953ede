#include "server/observe/metrics_json.h"

#include <cmath>

#include <fmt/format.h>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

namespace lorax {
namespace {

namespace json = boost::json;
using prometheus::ClientMetric;
using prometheus::MetricType;

const char* name_of(MetricType type) {
  switch (type) {
    case MetricType::Counter:
      return "counter";
    case MetricType::Gauge:
      return "gauge";
    case MetricType::Summary:
      return "summary";
    case MetricType::Histogram:
      return "histogram";
    case MetricType::Untyped:
      return "untyped";
  }
  return "untyped";
}

// JSON has no infinities.
json::value number(double value) { return std::isfinite(value) ? json::value(value) : nullptr; }

json::object histogram(const ClientMetric::Histogram& histogram) {
  json::object buckets;
  for (const ClientMetric::Bucket& bucket : histogram.bucket) {
    const std::string bound =
        std::isinf(bucket.upper_bound) ? "+Inf" : fmt::to_string(bucket.upper_bound);
    buckets[bound] = bucket.cumulative_count;
  }
  return {{"count", histogram.sample_count},
          {"sum", number(histogram.sample_sum)},
          {"buckets", std::move(buckets)}};
}

json::value value_of(MetricType type, const ClientMetric& metric) {
  if (type == MetricType::Histogram) return histogram(metric.histogram);
  return number(type == MetricType::Counter ? metric.counter.value : metric.gauge.value);
}

}  // namespace

std::string metrics_json(std::span<const prometheus::MetricFamily> families) {
  json::object out;
  for (const prometheus::MetricFamily& family : families) {
    json::array data;
    for (const ClientMetric& metric : family.metric) {
      json::object key;
      for (const ClientMetric::Label& label : metric.label) key[label.name] = label.value;
      data.push_back(
          json::object{{"key", std::move(key)}, {"value", value_of(family.type, metric)}});
    }
    out[family.name] = json::object{{"type", name_of(family.type)}, {"data", std::move(data)}};
  }
  return json::serialize(out);
}

}  // namespace lorax

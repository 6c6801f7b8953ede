#include "completion_bodies.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

namespace lorax {
namespace {

namespace json = boost::json;

// Sums of the weights up to each adapter.
std::vector<double> zipf_sums(int64_t count, double exponent) {
  std::vector<double> sums;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += std::pow(static_cast<double>(i + 1), -exponent);
    sums.push_back(sum);
  }
  return sums;
}

}  // namespace

std::vector<std::string> make_completion_bodies(const CompletionPlan& plan) {
  if (plan.bodies < 1 || plan.prompt_tokens < 1 || plan.max_tokens < 1 || plan.vocab_size < 4 ||
      plan.adapters < 0) {
    throw std::runtime_error("bodies, prompt and tokens must be at least 1, the vocabulary 4");
  }
  std::mt19937_64 random(plan.seed);
  std::uniform_int_distribution<int64_t> id(3, plan.vocab_size - 1);
  const std::vector<double> sums = zipf_sums(plan.adapters, plan.zipf);
  std::vector<std::string> bodies;
  for (int64_t i = 0; i < plan.bodies; ++i) {
    json::array prompt;
    for (int64_t t = 0; t < plan.prompt_tokens; ++t) prompt.emplace_back(id(random));
    json::object body = {{"prompt", std::move(prompt)},
                         {"max_tokens", plan.max_tokens},
                         {"temperature", 0},
                         {"ignore_eos", true},
                         {"stream", true}};
    if (plan.adapters > 0) {
      int64_t adapter = i % plan.adapters;
      if (plan.zipf >= 0) {
        const double at = std::uniform_real_distribution<double>(0, sums.back())(random);
        adapter = std::min(std::lower_bound(sums.begin(), sums.end(), at) - sums.begin(),
                           static_cast<std::ptrdiff_t>(plan.adapters - 1));
      }
      body["model"] = plan.adapter_name + std::to_string(plan.first_adapter + adapter);
    }
    bodies.push_back(json::serialize(body));
  }
  return bodies;
}

}  // namespace lorax

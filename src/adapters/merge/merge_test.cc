#include "adapters/merge/merge.h"

#include <cmath>

#include "adapters/peft/testing/test_adapter.h"

namespace lorax {
namespace {

constexpr const char* kQ0 = "model.layers.0.self_attn.q_proj";
constexpr const char* kQ1 = "model.layers.1.self_attn.q_proj";
constexpr const char* kQ = R"("target_modules": ["q_proj"])";

using Tensors = std::vector<std::vector<float>>;

TEST(MergeMath, PrunesByMagnitude) {
  std::vector<float> values = {1, -4, 3, -3, 0.5f, 2};
  prune_by_magnitude(values, 0.5);
  EXPECT_EQ(values, (std::vector<float>{0, -4, 3, -3, 0, 0}));
  values = {2, -2, 2, 2};
  prune_by_magnitude(values, 0.7);  // int(2.8): the first two of the equal ones
  EXPECT_EQ(values, (std::vector<float>{2, -2, 0, 0}));
  values = {2, 1};
  prune_by_magnitude(values, 0.4);  // int(0.8) keeps none
  EXPECT_EQ(values, (std::vector<float>{0, 0}));
  values = {2, 1};
  prune_by_magnitude(values, 1.0);
  EXPECT_EQ(values, (std::vector<float>{2, 1}));
}

TEST(MergeMath, ElectsSigns) {
  const Tensors tensors = {{3, -1, 1, 0, 2}, {-1, -1, -1, 0, -1}, {-1, 2, 0, 0, -1}};
  const std::vector<float> weights = {1, 2, 4};
  // total: +1, 0 (positive), 0 (positive), 0, 0
  EXPECT_EQ(merge_by_sign(tensors, weights, MajoritySign::kTotal),
            (std::vector<float>{3, 8, 1, 0, 2}));
  // frequency: -1, -1, 0 (positive), 0, -1; then means of the weighted values
  EXPECT_EQ(merge_by_sign(tensors, weights, MajoritySign::kFrequency),
            (std::vector<float>{-3, -1.5f, 1, 0, -3}));
}

TEST(MergeMath, PrunesAtRandom) {
  constexpr size_t kCount = 200'000;
  for (double density : {0.1, 0.5, 0.9}) {
    std::vector<float> values(kCount, 1.0f), same(kCount, 1.0f), other(kCount, 1.0f);
    prune_at_random(values, density, 1);
    prune_at_random(same, density, 1);
    prune_at_random(other, density, 2);
    EXPECT_EQ(values, same);
    size_t kept = 0, kept_in_both = 0;
    for (size_t i = 0; i < kCount; ++i) {
      ASSERT_TRUE(values[i] == 0.0f || values[i] == 1.0f / static_cast<float>(density));
      kept += values[i] != 0.0f;
      kept_in_both += values[i] != 0.0f && other[i] != 0.0f;
    }
    // Five standard deviations.
    const double n = kCount, p = density;
    EXPECT_NEAR(static_cast<double>(kept), n * p, 5 * std::sqrt(n * p * (1 - p)));
    EXPECT_NEAR(static_cast<double>(kept_in_both), n * p * p,
                5 * std::sqrt(n * p * p * (1 - p * p)));
  }
}

class Merge : public TestWithAdapter {
 protected:
  // Rank and alpha are 2 and 8 unless `keys` says otherwise: a scale of 4.
  Adapter make(const std::string& keys, const std::map<std::string, float>& layers,
               int64_t rank = 2) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    TestWithAdapter::Tensors tensors;
    for (const auto& [name, first] : layers) add_lora(tensors, name, rank, first);
    write_adapter(fmt::format(R"("r": {}, "lora_alpha": 8, {})", rank, keys), tensors);
    return read();
  }
  Adapter merge(const MergeParameters& parameters, const std::vector<const Adapter*>& adapters) {
    std::vector<MergeMember> members;
    for (const Adapter* adapter : adapters) members.push_back({adapter, "adapter"});
    return merge_adapters(parameters, members, model_.modules());
  }
  std::string merge_error(const std::vector<const Adapter*>& adapters) {
    const MergeParameters parameters{.weights = std::vector<double>(adapters.size(), 1.0)};
    return error_of([&] { merge(parameters, adapters); });
  }
};

TEST_F(Merge, LinearTakesTheRootOfWeightTimesScale) {
  const Adapter one = make(kQ, {{kQ0, 0.0f}, {kQ1, 1.0f}});
  const Adapter two = make(std::string(kQ) + R"(, "use_rslora": true)", {{kQ0, 2.0f}, {kQ1, 3.0f}});
  const Adapter merged = merge({.weights = {0.25, -2.0}}, {&one, &two});
  ASSERT_EQ(merged.lora.size(), 2u);
  const LoraWeights& weights = merged.lora.at(model_.index(kQ1));
  EXPECT_EQ(weights.rank, 2);
  EXPECT_EQ(weights.scale, 1.0f);
  const LoraWeights& a = one.lora.at(model_.index(kQ1));
  const LoraWeights& b = two.lora.at(model_.index(kQ1));
  const double root_a = std::sqrt(0.25 * 4.0), root_b = std::sqrt(2.0 * 8.0 / std::sqrt(2.0));
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(weights.a.floats()[i], root_a * a.a.floats()[i] - root_b * b.a.floats()[i], 1e-5);
  }
  for (size_t i = 0; i < 24; ++i) {
    EXPECT_NEAR(weights.b.floats()[i], root_a * a.b.floats()[i] + root_b * b.b.floats()[i], 1e-5);
  }
  // The first member's rsLoRA is also the result's, as in PEFT: alpha = rank, by its root.
  EXPECT_FLOAT_EQ(merge({.weights = {1, 1}}, {&two, &one}).lora.begin()->second.scale,
                  std::sqrt(2.0f));
}

TEST_F(Merge, ModulesOfTheUnion) {
  const Adapter q = make(kQ, {{kQ0, 0.0f}, {kQ1, 1.0f}});
  const Adapter k =
      make(R"("target_modules": ["k_proj"])",
           {{"model.layers.0.self_attn.k_proj", 0.0f}, {"model.layers.1.self_attn.k_proj", 1.0f}});
  const Adapter merged = merge({.weights = {1, 4}}, {&q, &k});
  EXPECT_EQ(merged.lora.size(), 4u);
  const size_t index = model_.index("model.layers.1.self_attn.k_proj");
  EXPECT_FLOAT_EQ(merged.lora.at(index).a.floats()[0], 4.0f * k.lora.at(index).a.floats()[0]);
  // The first member's layers bound the result; a module that nobody changes is PEFT's error.
  const Adapter first = make(std::string(kQ) + R"(, "layers_to_transform": [0])", {{kQ0, 0.0f}});
  const Adapter bounded = merge({.weights = {1, 1}}, {&first, &q});
  EXPECT_EQ(bounded.lora.size(), 1u);
  EXPECT_EQ(bounded.warnings.size(), 1u);
  const Adapter k1 = make(R"("target_modules": ["k_proj"], "layers_to_transform": [1])",
                          {{"model.layers.1.self_attn.k_proj", 0.0f}});
  expect_error(merge_error({&first, &k1}), "merged_adapters: ",
               "select model.layers.0.self_attn.k_proj, which none of them changes");
}

TEST_F(Merge, TiesAndDareAtFullDensityAgreeWithTheirDefinition) {
  const Adapter one = make(kQ, {{kQ0, -0.5f}, {kQ1, 0.0f}});
  const Adapter two = make(kQ, {{kQ0, -0.25f}, {kQ1, 0.5f}});
  MergeParameters parameters{.strategy = MergeStrategy::kTies, .weights = {1, 1}, .density = 1.0};
  const Adapter ties = merge(parameters, {&one, &two});
  const size_t index = model_.index(kQ0);
  const std::vector<std::vector<float>> values = {one.lora.at(index).a.floats(),
                                                  two.lora.at(index).a.floats()};
  const std::vector<float> roots = {2.0f, 2.0f};
  EXPECT_EQ(ties.lora.at(index).a.floats(), merge_by_sign(values, roots, MajoritySign::kTotal));
  parameters.strategy = MergeStrategy::kDareTies;
  EXPECT_EQ(merge(parameters, {&one, &two}).lora.at(index).a.floats(),
            ties.lora.at(index).a.floats());
  parameters.strategy = MergeStrategy::kDareLinear;
  const Adapter dare = merge(parameters, {&one, &two});
  parameters.strategy = MergeStrategy::kLinear;
  EXPECT_EQ(dare.lora.at(index).b.floats(),
            merge(parameters, {&one, &two}).lora.at(index).b.floats());
  // A single adapter is only weighted.
  parameters = {.strategy = MergeStrategy::kTies, .weights = {1}, .density = 0.1};
  EXPECT_EQ(merge(parameters, {&one}).lora.at(index).a.floats()[0],
            2.0f * one.lora.at(index).a.floats()[0]);
}

TEST_F(Merge, WhatCannotBeMerged) {
  const Adapter plain = make(kQ, {{kQ0, 0.0f}, {kQ1, 1.0f}});
  const Adapter rank3 = make(kQ, {{kQ0, 0.0f}, {kQ1, 1.0f}}, 3);
  const Adapter regex = make(R"("target_modules": ".*q_proj")", {{kQ0, 0.0f}, {kQ1, 1.0f}});
  expect_error(merge_error({&plain, &rank3}), "merged_adapters: ", "only adapters of equal rank");
  expect_error(merge_error({&plain, &regex}), "merged_adapters: ", "a list in some");
  EXPECT_EQ(merge_error({&regex, &regex}), "no error");
  Adapter other = plain;
  other.config->use_dora = true;
  expect_error(merge_error({&plain, &other}), "merged_adapters: ", "uses DoRA");
  other = plain;
  other.config->lora_bias = true;
  expect_error(merge_error({&other}), "merged_adapters: ", "lora_bias");
  other = plain;
  other.replaced[0] = constant({20, 8}, 1.0f);
  expect_error(merge_error({&other}), "merged_adapters: ", "modules_to_save");
  other = plain;
  other.kind = AdapterKind::kMedusaLora;
  expect_error(merge_error({&other}), "merged_adapters: ", "Medusa");
}

TEST(MergeParameters, Checked) {
  const auto error = [](const MergeParameters& parameters, size_t count) {
    return error_of([&] { check_merge_parameters(parameters, count); });
  };
  expect_error(error({}, 0), "merged_adapters", "ids is empty");
  expect_error(error({.weights = {1}}, 2), "merged_adapters", "1 weights for 2 adapters");
  expect_error(error({.weights = {NAN}}, 1), "merged_adapters", "weight nan");
  for (double density : {0.0, -1.0, 1.5, static_cast<double>(NAN)}) {
    expect_error(error({.strategy = MergeStrategy::kTies, .weights = {1}, .density = density}, 1),
                 "merged_adapters", "density");
    EXPECT_EQ(error({.weights = {1}, .density = density}, 1), "no error");
  }
  EXPECT_EQ(parse_merge_strategy("DARE_TIES"), MergeStrategy::kDareTies);
  EXPECT_EQ(parse_majority_sign_method("frequency"), MajoritySign::kFrequency);
  expect_error(error_of([] { parse_merge_strategy("svd"); }), "merge_strategy", "known: linear");
  expect_error(error_of([] { parse_majority_sign_method(""); }), "majority_sign_method", "known");
}

TEST(MergedDigest, TellsApartWhatMatters) {
  const std::vector<std::string> members = {"a", "b"}, swapped = {"b", "a"};
  MergeParameters parameters{.weights = {1, 2}, .density = 0.5};
  const std::string linear = merged_digest(parameters, members);
  EXPECT_NE(linear, merged_digest(parameters, swapped));
  parameters.density = 0.6;
  EXPECT_EQ(linear, merged_digest(parameters, members));  // has no effect there
  parameters.strategy = MergeStrategy::kTies;
  const std::string ties = merged_digest(parameters, members);
  EXPECT_NE(ties, linear);
  parameters.density = 0.7;
  EXPECT_NE(ties, merged_digest(parameters, members));
  parameters.density = 0.6;
  parameters.majority_sign_method = MajoritySign::kFrequency;
  EXPECT_NE(ties, merged_digest(parameters, members));
  parameters.weights = {1, 3};
  EXPECT_NE(linear, merged_digest(parameters, members));
}

}  // namespace
}  // namespace lorax

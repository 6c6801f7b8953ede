#include "adapters/store/factor_precision.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "adapters/peft/peft_config.h"
#include "adapters/peft/testing/fake_model.h"
#include "adapters/store/packed_adapter.h"

namespace lorax {
namespace {

constexpr double kHuge = 1e30;  // a weight norm beside which no product counts

std::vector<float> normals(int64_t count, float deviation, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

LoraWeights random_weights(int64_t rank, int64_t in, int64_t out, float size_a = 1.0f,
                           float size_b = 1.0f) {
  LoraWeights weights;
  weights.rank = rank;
  weights.scale = 1.0f;
  weights.a = HostTensor::from_floats(normals(rank * in, size_a, 1), {rank, in});
  weights.b = HostTensor::from_floats(normals(out * rank, size_b, 2), {out, rank});
  return weights;
}

// PEFT's `cat` of an adapter and nearly the same one, weighted 5 and -5: of twice its rank.
LoraWeights cancelling(int64_t rank, int64_t in, int64_t out, float difference) {
  const LoraWeights first = random_weights(rank, in, out);
  std::vector<float> a = first.a.floats();
  const std::vector<float> b = first.b.floats();
  const std::vector<float> noise = normals(rank * in, difference, 3);
  for (int64_t i = 0; i < rank * in; ++i) {
    const auto at = static_cast<size_t>(i);
    a.push_back(-5.0f * a[at] * (1.0f + noise[at]));
    a[at] *= 5.0f;
  }
  std::vector<float> twice;
  for (int64_t row = 0; row < out; ++row) {
    for (int copy = 0; copy < 2; ++copy) {
      twice.insert(twice.end(), b.begin() + row * rank, b.begin() + (row + 1) * rank);
    }
  }
  LoraWeights weights;
  weights.rank = 2 * rank;
  weights.scale = 1.0f;
  weights.a = HostTensor::from_floats(a, {2 * rank, in});
  weights.b = HostTensor::from_floats(twice, {out, 2 * rank});
  return weights;
}

// scale * B A, [out, in], in float64.
std::vector<double> product(const LoraWeights& weights) {
  const std::vector<float> a = weights.a.floats(), b = weights.b.floats();
  const int64_t in = weights.a.shape[1], out = weights.b.shape[0];
  std::vector<double> sums(static_cast<size_t>(in * out));
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      for (int64_t k = 0; k < weights.rank; ++k) {
        sums[static_cast<size_t>(i * in + j)] +=
            double{b[static_cast<size_t>(i * weights.rank + k)]} *
            a[static_cast<size_t>(k * in + j)];
      }
    }
  }
  for (double& sum : sums) sum *= weights.scale;
  return sums;
}

double norm(const std::vector<double>& values) {
  double sum = 0.0;
  for (double value : values) sum += value * value;
  return std::sqrt(sum);
}

// || scale B A - scale' B' A' ||_F / || scale B A ||_F.
double relative_error(const LoraWeights& weights, const LoraWeights& form) {
  std::vector<double> exact = product(weights);
  const double whole = norm(exact);
  const std::vector<double> kept = product(form);
  for (size_t i = 0; i < exact.size(); ++i) exact[i] -= kept[i];
  return norm(exact) / whole;
}

LoraWeights rounded(const LoraWeights& weights, DType dtype) {
  return in_form(weights, FactorForm(), dtype);
}

ModulePrecision precision_of(const LoraWeights& weights, DType dtype, double weight_norm = kHuge) {
  Adapter adapter;
  const FakeModel model;
  adapter.lora[1] = weights;
  return choose_precision(adapter, model.modules(), dtype, [&](size_t) { return weight_norm; })
      .at(1);
}

TEST(FactorPrecision, MeasuresWhatRoundingDoesToTheProduct) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t rank : {1, 3, 8, 17}) {
      const LoraWeights weights = random_weights(rank, 150, 67);
      const ProductRounding rounding = measure_rounding(weights, dtype);
      EXPECT_NEAR(rounding.norm / norm(product(weights)), 1.0, 1e-6) << rank;
      EXPECT_NEAR(rounding.relative() / relative_error(weights, rounded(weights, dtype)), 1.0, 1e-5)
          << rank;
      EXPECT_LT(rounding.relative(), dtype == DType::kBFloat16 ? 0x1p-8 : 0x1p-11);
    }
  }
}

// The sum of squares of B A cancels in the Gram matrices; that of its error does not. So the error
// is right however small the product, and the product until it is some thousandth of its parts.
TEST(FactorPrecision, CancellationIsSeen) {
  for (const float difference : {0.1f, 1e-2f, 3e-3f}) {
    const LoraWeights weights = cancelling(4, 300, 200, difference);
    const double exact = relative_error(weights, rounded(weights, DType::kBFloat16));
    EXPECT_NEAR(measure_rounding(weights, DType::kBFloat16).relative() / exact, 1.0, 0.02)
        << difference;
  }
  for (const float difference : {1e-4f, 1e-5f, 1e-6f, 0.0f}) {
    const LoraWeights weights = cancelling(4, 300, 200, difference);
    EXPECT_TRUE(difference == 0.0f || precision_of(weights, DType::kBFloat16).needs_three_parts)
        << difference;
    const std::vector<double> kept = product(rounded(weights, DType::kBFloat16));
    std::vector<double> error = product(weights);
    for (size_t i = 0; i < error.size(); ++i) error[i] -= kept[i];
    const double measured = measure_rounding(weights, DType::kBFloat16).error;
    EXPECT_NEAR(measured, norm(error), 1e-3 * norm(product(random_weights(4, 300, 200))));
  }
}

TEST(FactorPrecision, OrdinaryFactorsAreRoundedAndCancellingOnesKept) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    const ModulePrecision ordinary = precision_of(random_weights(8, 300, 200), dtype);
    EXPECT_EQ(ordinary.form.parts, 1);
    EXPECT_FALSE(ordinary.needs_three_parts);
    const ModulePrecision kept = precision_of(cancelling(4, 300, 200, 1e-2f), dtype);
    EXPECT_EQ(kept.form.parts, 3);
  }
}

// Where the product is as large as what W makes, its rounding is more than PEFT's of W x.
TEST(FactorPrecision, LargeProductsAreKept) {
  LoraWeights weights = random_weights(8, 300, 200);
  const double size = norm(product(weights));
  EXPECT_EQ(precision_of(weights, DType::kBFloat16, 2.0 * size).form.parts, 1);
  EXPECT_EQ(precision_of(weights, DType::kBFloat16, 0.5 * size).form.parts, 3);
  weights.scale = -4.0f;
  EXPECT_EQ(precision_of(weights, DType::kBFloat16, 2.0 * size).form.parts, 3);
  // Of the weight that the adapter puts in the base's place.
  Adapter adapter;
  const FakeModel model;
  adapter.lora[1] = weights;
  adapter.replaced[1] = HostTensor::from_floats({static_cast<float>(100.0 * size)}, {1, 1});
  EXPECT_EQ(choose_precision(adapter, model.modules(), DType::kBFloat16, [](size_t) { return 0.0; })
                .at(1)
                .form.parts,
            1);
}

TEST(FactorPrecision, ThreePartsHoldTheProductToTheSquareOfTheRounding) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    const double unit = dtype == DType::kBFloat16 ? 0x1p-8 : 0x1p-11;
    const LoraWeights weights = cancelling(4, 300, 200, 1e-2f);
    const ModulePrecision kept = precision_of(weights, dtype);
    const LoraWeights form = in_form(weights, kept.form, dtype);
    EXPECT_EQ(form.rank, 24);
    EXPECT_EQ(form.a.shape, (std::vector<int64_t>{24, 300}));
    EXPECT_EQ(form.b.shape, (std::vector<int64_t>{200, 24}));
    EXPECT_EQ(form.a.dtype, dtype);
    EXPECT_LT(relative_error(weights, form), 2.0 * unit * kept.rounding.relative());
  }
}

// float16 has no normal numbers below 2^-14 and none above 65504; the rest of a number is 2^-11 of
// it. Factors are scaled by powers of two, and scale takes them back.
TEST(FactorPrecision, Float16KeepsFactorsOfAnySize) {
  for (const float size : {1e-9f, 1e-5f, 1.0f, 1e5f, 1e9f}) {
    const LoraWeights weights = random_weights(4, 100, 80, size, 1.0f / size);
    const ModulePrecision precision = precision_of(weights, DType::kFloat16);
    EXPECT_EQ(precision.form.parts, 1) << size;
    EXPECT_LT(relative_error(weights, in_form(weights, precision.form, DType::kFloat16)), 0x1p-11)
        << size;
    FactorForm three = precision.form;
    three.parts = 3;
    const LoraWeights form = in_form(weights, three, DType::kFloat16);
    EXPECT_TRUE(form.a.all_finite() && form.b.all_finite()) << size;
    EXPECT_LT(relative_error(weights, form), 0x1p-21) << size;
    EXPECT_EQ(precision_of(weights, DType::kBFloat16).form, FactorForm()) << size;
  }
}

TEST(FactorPrecision, WhatIsExactStaysAsItIs) {
  LoraWeights weights = random_weights(4, 100, 80);
  weights = rounded(weights, DType::kBFloat16);
  EXPECT_EQ(precision_of(weights, DType::kBFloat16, 0.0).form, FactorForm());
  EXPECT_EQ(precision_of(weights, DType::kFloat16).rounding.error, 0.0);
  // A fresh adapter, whose B is zero.
  weights = random_weights(4, 100, 80, 1.0f, 0.0f);
  EXPECT_EQ(precision_of(weights, DType::kBFloat16, 0.0).form.parts, 1);
  Adapter adapter;
  adapter.lora[1] = random_weights(4, 100, 80);
  EXPECT_TRUE(choose_precision(adapter, FakeModel().modules(), DType::kFloat32, [](size_t) {
                return 0.0;
              }).empty());
}

TEST(FactorPrecision, RanksThatThreePartsWouldExceedAreRounded) {
  const int64_t most = PeftConfig::kMaxRank / 3;
  const ModulePrecision fits = precision_of(random_weights(most, 20, 12), DType::kBFloat16, 0.0);
  EXPECT_TRUE(fits.needs_three_parts);
  EXPECT_EQ(fits.form.parts, 3);
  const ModulePrecision above =
      precision_of(random_weights(most + 1, 20, 12), DType::kBFloat16, 0.0);
  EXPECT_TRUE(above.needs_three_parts);
  EXPECT_EQ(above.form.parts, 1);
}

TEST(FactorPrecision, APartOfTheProductStandsForTheWhole) {
  const LoraWeights weights = cancelling(4, 1500, 900, 1e-2f);
  const ProductRounding whole = measure_rounding(weights, DType::kBFloat16);
  const ProductRounding part = measure_rounding(weights, DType::kBFloat16, 7);
  EXPECT_NEAR(part.norm / whole.norm, 1.0, 0.1);
  EXPECT_NEAR(part.error / whole.error, 1.0, 0.1);
}

TEST(FactorPrecision, DescribesTheWorstModuleAndTheForm) {
  const FakeModel model;
  Adapter adapter;
  adapter.lora[1] = random_weights(4, 100, 80);
  adapter.lora[2] = cancelling(4, 100, 80, 1e-2f);
  const AdapterPrecision precision =
      choose_precision(adapter, model.modules(), DType::kBFloat16, [](size_t) { return kHuge; });
  const std::string text = describe_precision(precision, model.modules(), DType::kBFloat16);
  EXPECT_NE(text.find(model.modules()[2].name), std::string::npos) << text;
  EXPECT_NE(text.find("1 of 2 modules in three parts"), std::string::npos) << text;
}

// Device bytes are those of the form; the adapter's rank stays its own.
TEST(FactorPrecision, PackedBytesAreTheForms) {
  const FakeModel model;
  const size_t index = model.index("model.layers.0.self_attn.q_proj");
  Adapter adapter;
  adapter.lora[index] = random_weights(4, FakeModel::kHidden, FakeModel::kQueries);
  AdapterPrecision precision;
  const auto bytes = [&](const AdapterPrecision& of) {
    return PackedAdapter::bytes_for(adapter, model.modules(), of, DType::kBFloat16);
  };
  // A has 4 x 8 elements, B's one panel 4 x 64.
  EXPECT_EQ(bytes(precision), (4U * 8 + 4 * 64) * 2);
  precision[index].form.parts = 3;
  EXPECT_EQ(bytes(precision), (12U * 8 + 12 * 64) * 2);
  EXPECT_EQ(adapter.ranks(), std::set<int64_t>{4});
}

}  // namespace
}  // namespace lorax

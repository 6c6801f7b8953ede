// Products of many rows (device/cuda/products/gemm_hopper.cu), run by the emulator, against double
// arithmetic.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "cuda_builtins.h"

namespace {
constexpr int kClustersAtOnce = 3;
}  // namespace

#define cudaOccupancyMaxActiveClusters(count, kernel, config) \
  (*(count) = kClustersAtOnce, cudaSuccess)

// Under a name of its own beside the real one, and the shared memory that it declares extern.
#define cuda emulated_gemm
namespace lorax::cuda {
namespace {
alignas(1024) thread_local unsigned char raw_shared[227 << 10];
}  // namespace
}  // namespace lorax::cuda
#include "device/cuda/products/gemm_hopper.cu"
#undef cuda

namespace lorax::emulated_gemm {

bool make_matrix_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns,
                     int64_t stride, int box_rows) {
  const MatrixMap matrix{static_cast<const uint16_t*>(data), rows, columns, stride, box_rows};
  static_assert(sizeof(matrix) <= sizeof(map));
  std::memcpy(&map, &matrix, sizeof(matrix));
  return true;
}

namespace {

struct GemmCase {
  std::string name;
  int rows, m, n;
  bool gated;
};

std::ostream& operator<<(std::ostream& out, const GemmCase& c) { return out << c.name; }

class EmulatedGemmTest : public ::testing::TestWithParam<GemmCase> {
 protected:
  std::vector<bfloat16> random_bfloat16(size_t n, float scale) {
    std::vector<bfloat16> values(n);
    for (bfloat16& value : values) value = from_float<bfloat16>(normal_(random_) * scale);
    return values;
  }

  std::mt19937 random_{1};
  std::normal_distribution<float> normal_;
};

TEST_P(EmulatedGemmTest, IsTheProduct) {
  const GemmCase& c = GetParam();
  const int64_t x_stride = c.n + 8;
  const int out_columns = c.gated ? c.m / 2 : c.m;
  const int64_t out_stride = out_columns + 16;
  const std::vector<bfloat16> x = random_bfloat16(static_cast<size_t>(c.rows * x_stride), 1.0f);
  const std::vector<bfloat16> weight = random_bfloat16(static_cast<size_t>(c.m * c.n), 0.1f);
  const bfloat16 nan = from_float<bfloat16>(NAN);
  std::vector<bfloat16> out(static_cast<size_t>(c.rows * out_stride), nan);
  std::vector<float4> parts(size_t{1} << 17);
  std::vector<uint32_t> flags(kGemmFlags);
  const GemmRoom room{parts.data(), parts.size() * sizeof(float4), flags.data()};
  LinearArgs args;
  args.x = {const_cast<bfloat16*>(x.data()), DType::kBFloat16, x_stride};
  args.weight = weight.data();
  args.out = {out.data(), DType::kBFloat16, out_stride};
  args.rows = c.rows;
  args.m = c.m;
  args.n = c.n;
  Stream stream;
  stream.hopper = true;
  ASSERT_TRUE(c.gated ? gemm_hopper_gelu_tanh_mul(stream, args, room)
                      : gemm_hopper(stream, args, room));

  const auto product = [&](int row, int column) {
    double sum = 0.0;
    for (int k = 0; k < c.n; ++k) {
      sum += double{to_float(x[static_cast<size_t>(row * x_stride + k)])} *
             to_float(weight[static_cast<size_t>(column) * static_cast<size_t>(c.n) +
                             static_cast<size_t>(k)]);
    }
    return sum;
  };
  for (int row = 0; row < c.rows; ++row) {
    // Every column of some rows, some of all others.
    for (int column = row % 7 == 0 ? 0 : row % 13; column < out_columns;
         column += row % 7 == 0 ? 1 : 13) {
      double want = product(row, column);
      double size = 1.0;
      if (c.gated) {
        const double up = product(row, out_columns + column);
        const double inner = 0.7978845608028654 * (want + 0.044715 * want * want * want);
        want = 0.5 * want * (1.0 + std::tanh(inner)) * up;
        size += std::abs(up);
      }
      ASSERT_NEAR(to_float(out[static_cast<size_t>(row * out_stride + column)]), want,
                  0x1.8p-8 * (std::abs(want) + size))
          << "row " << row << ", column " << column;
    }
    for (int64_t column = out_columns; column < out_stride; ++column) {
      ASSERT_TRUE(std::isnan(to_float(out[static_cast<size_t>(row * out_stride + column)])));
    }
  }
  for (uint32_t flag : flags) ASSERT_EQ(flag, 0u);  // for the next launch
}

INSTANTIATE_TEST_SUITE_P(Cases, EmulatedGemmTest,
                         ::testing::Values(GemmCase{"OneTileCutInThree", 65, 200, 328, false},
                                           GemmCase{"WholeRounds", 300, 776, 136, false},
                                           GemmCase{"RoundsAndCuts", 300, 1032, 264, false},
                                           GemmCase{"Gated", 130, 512, 200, true},
                                           GemmCase{"GatedRoundsAndCuts", 270, 1024, 136, true}),
                         [](const auto& param_info) { return param_info.param.name; });

TEST(TileScheduleTest, EveryKTileOfEveryTileOnce) {
  for (int clusters : {1, 3, 66}) {
    for (const auto& [rows, columns, k_tiles] :
         {std::tuple{1, 1, 1}, {32, 14, 56}, {8, 14, 224}, {32, 112, 56}, {3, 22, 3}, {2, 1, 2}}) {
      const TileSchedule schedule = TileSchedule::make(clusters, rows, columns, k_tiles);
      std::map<std::pair<int, int>, int> place;
      std::vector<int> done(static_cast<size_t>(rows * columns));
      for (int cluster = 0; cluster < clusters; ++cluster) {
        Pieces pieces(schedule, cluster);
        Piece piece;
        int cut = 0;
        while (pieces.next(piece)) {
          ASSERT_LT(piece.begin, piece.end);
          done[static_cast<size_t>(piece.tile)] += piece.end - piece.begin;
          cut += piece.begin > 0 ? 1 : 0;
        }
        ASSERT_LE(cut, 1);  // a block has room for one part
      }
      for (int tile = 0; tile < rows * columns; ++tile) {
        int row, column;
        schedule.find(tile, row, column);
        ASSERT_TRUE(row < rows && column < columns);
        ASSERT_EQ(place[std::pair(row, column)]++, 0);
        ASSERT_EQ(done[static_cast<size_t>(tile)], k_tiles);
      }
    }
  }
}

}  // namespace
}  // namespace lorax::emulated_gemm

#include "formats/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

std::string header_error(std::string_view header, uint64_t data_bytes) {
  return error_of([&] { parse_safetensors_header(header, data_bytes, "f.safetensors"); });
}

// A header of one tensor "a" of these JSON values.
std::string one_tensor(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"a": {{"dtype": {}, "shape": {}, "data_offsets": {}}}}})", dtype, shape,
                     offsets);
}

TEST(SafetensorsHeaderTest, ReadsTensorsAndMetadata) {
  const SafetensorsHeader header = parse_safetensors_header(
      R"({"__metadata__": {"format": "pt", "a\nb": ""},
          "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16], "new": [1]},
          "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
          "none": {"dtype": "F16", "shape": [4611686018427387904, 0], "data_offsets": [4, 4]},
          "odd": {"dtype": "U8", "shape": [1], "data_offsets": [16, 17]}}   )",
      17, "f.safetensors");
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.metadata.at("a\nb"), "");
  const TensorInfo& b = header.tensors.at("b");
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, DType::kBFloat16);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.offset, 4u);
  EXPECT_EQ(b.bytes, 12u);
  EXPECT_EQ(header.tensors.at("none").bytes, 0u);
  EXPECT_TRUE(parse_safetensors_header("{}", 0, "f").tensors.empty());
}

TEST(SafetensorsHeaderTest, KnowsEveryTypeOfTheFormat) {
  struct Case {
    std::string_view name;
    int bytes_of_8;
    std::optional<DType> dtype;
  };
  const Case cases[] = {{"F32", 32, DType::kFloat32},     {"BF16", 16, DType::kBFloat16},
                        {"F16", 16, DType::kFloat16},     {"I64", 64, DType::kInt64},
                        {"I32", 32, DType::kInt32},       {"BOOL", 8, std::nullopt},
                        {"F4", 4, std::nullopt},          {"F6_E2M3", 6, std::nullopt},
                        {"F6_E3M2", 6, std::nullopt},     {"F8_E4M3", 8, std::nullopt},
                        {"F8_E4M3FNUZ", 8, std::nullopt}, {"F8_E5M2", 8, std::nullopt},
                        {"F8_E5M2FNUZ", 8, std::nullopt}, {"F8_E8M0", 8, std::nullopt},
                        {"U8", 8, std::nullopt},          {"I8", 8, std::nullopt},
                        {"U16", 16, std::nullopt},        {"I16", 16, std::nullopt},
                        {"U32", 32, std::nullopt},        {"U64", 64, std::nullopt},
                        {"F64", 64, std::nullopt},        {"C64", 64, std::nullopt}};
  for (const Case& c : cases) {
    const uint64_t bytes = static_cast<uint64_t>(c.bytes_of_8);
    const SafetensorsHeader header = parse_safetensors_header(
        one_tensor(fmt::format("\"{}\"", c.name), "[8]", fmt::format("[0, {}]", bytes)), bytes,
        "f.safetensors");
    EXPECT_EQ(header.tensors.at("a").dtype_name, c.name);
    EXPECT_EQ(header.tensors.at("a").dtype, c.dtype);
  }
}

TEST(SafetensorsHeaderTest, EveryLieIsAnErrorThatNamesTheTensor) {
  struct Case {
    std::string header;
    uint64_t data_bytes;
    std::string_view expected;
  };
  const std::string f32 = "\"F32\"";
  const Case cases[] = {
      {"", 0, "JSON"},
      {"{", 0, "JSON"},
      {"{} x", 0, "JSON"},
      {"{}\x01", 0, "JSON"},
      {"[]", 0, "object"},
      {"null", 0, "object"},
      {std::string(100'000, '['), 0, "too deep"},
      {R"({"a": 1})", 0, "tensor a: its entry is not an object"},
      {R"({"a": ["F32", [1], [0, 4]]})", 4, "tensor a: its entry is not an object"},
      {R"({"__metadata__": 1})", 0, "__metadata__ is not an object"},
      {R"({"__metadata__": {"x\n": 1}})", 0, "__metadata__: x\\x0a is not a string"},
      {R"({"a\nb": {}})", 0, "\"a\\x0ab\" is not the name of a tensor"},
      {R"({")" + std::string(1001, 'x') + R"(": {}})", 0, "is not the name of a tensor"},
      {R"({"a": {"shape": [1], "data_offsets": [0, 4]}})", 4, "tensor a: dtype is missing"},
      {one_tensor("\"F7\"", "[1]", "[0, 4]"), 4, "dtype \"F7\" is unknown; known: F32, BF16"},
      {one_tensor("\"f32\"", "[1]", "[0, 4]"), 4, "dtype \"f32\" is unknown"},
      {one_tensor("4", "[1]", "[0, 4]"), 4, "dtype 4 is unknown"},
      {one_tensor("\"" + std::string(5000, 'F') + "\"", "[1]", "[0, 4]"), 4, "FFF... is unknown"},
      {R"({"a": {"dtype": "F32", "data_offsets": [0, 4]}})", 4, "tensor a: shape is missing"},
      {one_tensor(f32, "[-1]", "[0, 4]"), 4, "not a size"},
      {one_tensor(f32, "[1.0]", "[0, 4]"), 4, "not a size"},
      {one_tensor(f32, "[\"1\"]", "[0, 4]"), 4, "not a size"},
      {one_tensor(f32, "[18446744073709551615]", "[0, 4]"), 4, "not a size"},
      {one_tensor(f32, "1", "[0, 4]"), 4, "its shape is not a list"},
      {one_tensor(f32, "[1,1,1,1,1,1,1,1,1]", "[0, 4]"), 4,
       "9 sizes; this program reads at most 8"},
      {R"({"a": {"dtype": "F32", "shape": [1]}})", 4, "tensor a: data_offsets is missing"},
      {one_tensor(f32, "[1]", "4"), 4, "not a pair"},
      {one_tensor(f32, "[1]", "[0]"), 4, "not a pair"},
      {one_tensor(f32, "[1]", "[0, 4, 4]"), 4, "not a pair"},
      {one_tensor(f32, "[1]", "[0, 4.0]"), 4, "not a pair"},
      {one_tensor(f32, "[1]", "[-4, 0]"), 4, "not a pair"},
      {one_tensor(f32, "[1]", "[0, 18446744073709551615]"), 4, "not a pair"},
      {one_tensor(f32, "[1]", "[4, 0]"), 4, "before they begin"},
      {one_tensor(f32, "[1]", "[0, -4]"), 4, "before they begin"},
      {one_tensor(f32, "[2]", "[0, 8]"), 4, "byte 8 of 4"},
      {one_tensor(f32, "[1]", "[9223372036854775803, 9223372036854775807]"), 4, "of 4"},
      {one_tensor(f32, "[2]", "[0, 4]"), 4, "needs 8 bytes and its data_offsets give 4"},
      {one_tensor(f32, "[0]", "[0, 4]"), 4, "needs 0 bytes and its data_offsets give 4"},
      {one_tensor(f32, "[4611686018427387904, 16]", "[0, 0]"), 0, "larger than any memory"},
      {one_tensor(f32, "[4611686018427387904, 16, 0]", "[0, 0]"), 0, "larger than any memory"},
      {one_tensor("\"U8\"", "[4294967296, 4294967296]", "[0, 0]"), 0, "larger than any memory"},
      {one_tensor("\"C64\"", "[1152921504606846976]", "[0, 0]"), 0, "larger than any memory"},
      {one_tensor("\"F4\"", "[3]", "[0, 1]"), 1, "3 elements of 4 bits do not fill whole bytes"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
           "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})",
       4, "tensor b: its data overlaps"},
      {R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
           "b": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}})",
       8, "tensor b: its data overlaps"},
      {one_tensor(f32, "[1]", "[4, 8]"), 8, "tensor a: its data follows a hole"},
      {one_tensor(f32, "[1]", "[0, 4]"), 9, "5 bytes of data belong to no tensor"},
      {"{}", 1, "1 bytes of data belong to no tensor"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
           "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})",
       4, "\"a\" stands twice"},
      {R"({"a": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}})", 4,
       "\"dtype\" stands twice"}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.header.substr(0, 200));
    expect_error(header_error(c.header, c.data_bytes), "f.safetensors: ", c.expected);
  }
}

class SafetensorsFileTest : public TestWithDirectory {
 protected:
  std::string open_error(const fs::path& path) {
    return error_of([&] { SafetensorsFile::open(path); });
  }
};

TEST_F(SafetensorsFileTest, LengthsBeyondTheFileAreErrors) {
  for (uint64_t length : {uint64_t{3}, uint64_t{1} << 40, UINT64_MAX, UINT64_MAX - 7}) {
    const fs::path path = write_safetensors("a", "{}", length, 0);
    expect_error(open_error(path), path.string(), fmt::format("said to have {} bytes", length));
  }
  const fs::path above_the_limit = write_safetensors("a", "{}", 100'000'001, 200'000'000);
  expect_error(open_error(above_the_limit), above_the_limit.string(), "said to have 100000001");
  const fs::path at_the_limit = write_safetensors("a", "{}", 100'000'000, 200'000'000);
  expect_error(open_error(at_the_limit), at_the_limit.string(), "JSON");
  const fs::path empty = write_text("short", "1234567");
  expect_error(open_error(empty), empty.string(), "7 bytes are too few");
}

TEST_F(SafetensorsFileTest, WhatIsNoFile) {
  expect_error(open_error(directory_), directory_.string(), "not a file");
  expect_error(open_error(directory_ / "none"), (directory_ / "none").string(), "no such file");
  ASSERT_EQ(::mkfifo((directory_ / "pipe").c_str(), 0600), 0);
  expect_error(open_error(directory_ / "pipe"), (directory_ / "pipe").string(), "not a file");
}

TEST_F(SafetensorsFileTest, AFileThatShrinksIsAnErrorWhenRead) {
  const std::string header = one_tensor("\"F32\"", "[100]", "[0, 400]");
  const fs::path path = write_safetensors("a", header, header.size(), 400);
  const SafetensorsFile file = SafetensorsFile::open(path);
  fs::resize_file(path, 8 + header.size() + 200);
  std::vector<float> values(100);
  file.read(*file.find("a"), 0, 200, values.data());
  expect_error(error_of([&] { file.read(*file.find("a"), 0, 201, values.data()); }),
               path.string() + ": tensor a: ", "shorter");
}

TEST_F(SafetensorsFileTest, TypesThatCannotBeComputedInAreListedButNotRead) {
  const std::string header = one_tensor("\"F8_E4M3\"", "[2]", "[0, 2]");
  const fs::path path = write_safetensors("a", header, header.size(), 2);
  const SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_EQ(file.find("a")->dtype_name, "F8_E4M3");
  EXPECT_EQ(file.find("b"), nullptr);
  char bytes[2];
  expect_error(error_of([&] { file.read(*file.find("a"), 0, 2, bytes); }),
               path.string() + ": tensor a ", "F8_E4M3");
}

TEST_F(SafetensorsFileTest, ReadingOutsideTheTensorIsABug) {
  const std::string header = one_tensor("\"F32\"", "[2]", "[0, 8]");
  const fs::path path = write_safetensors("a", header, header.size(), 8);
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<char> bytes(16);
  const TensorInfo& a = *file.find("a");
  file.read(a, 8, 0, bytes.data());
  EXPECT_DEATH(file.read(a, 0, 9, bytes.data()), "tensor a");
  EXPECT_DEATH(file.read(a, 9, 0, bytes.data()), "tensor a");
  EXPECT_DEATH(file.read(a, 4, UINT64_MAX, bytes.data()), "tensor a");
}

int64_t peak_kilobytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

TEST_F(SafetensorsFileTest, HugeSparseFilesOpenAtOnce) {
  const std::string header = one_tensor("\"BF16\"", "[20, 1000000000]", "[0, 40000000000]");
  const fs::path path = write_safetensors("a", header, header.size(), 40'000'000'000);
  const int64_t before = peak_kilobytes();
  const auto start = std::chrono::steady_clock::now();
  const SafetensorsFile file = SafetensorsFile::open(path);
  uint16_t last = 1;
  file.read(*file.find("a"), 39'999'999'998, 2, &last);
  EXPECT_EQ(last, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_LT(peak_kilobytes() - before, 16 << 10);
}

// As much JSON as a header may have, in the form that takes the most memory.
TEST_F(SafetensorsFileTest, TheLargestHeaderTakesBoundedMemory) {
  std::string header = R"({"a":[)";
  while (header.size() < 99'999'990) header += "0,";
  header += "0]}";
  const fs::path path = write_safetensors("a", header, header.size(), 0);
  const int64_t before = peak_kilobytes();
  expect_error(open_error(path), path.string(), "more than 4000000 values");
  EXPECT_LT(peak_kilobytes() - before, 600 << 10);
}

TEST_F(SafetensorsFileTest, ReadsFromSeveralThreads) {
  constexpr size_t kCount = 1 << 16;
  const std::string header = one_tensor("\"I32\"", "[65536]", "[0, 262144]");
  const fs::path path = write_safetensors("a", header, header.size(), 0);
  std::vector<int32_t> values(kCount);
  std::iota(values.begin(), values.end(), 0);
  std::ofstream(path, std::ios::binary | std::ios::app)
      .write(reinterpret_cast<const char*>(values.data()), sizeof(int32_t) * kCount);
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < kCount; i += 97) {
        int32_t value = -1;
        file.read(*file.find("a"), i * 4, 4, &value);
        if (value != values[i]) wrong.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace lorax

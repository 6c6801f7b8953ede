#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"
#include "formats/safetensors_checkpoint.h"
#include "formats/safetensors_writer.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

template <typename Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string header_error(std::string_view header, uint64_t data_bytes) {
  return error_of([&] { parse_safetensors_header(header, data_bytes, "f.safetensors"); });
}

TEST(SafetensorsHeaderTest, ReadsTensorsAndMetadata) {
  const SafetensorsHeader header = parse_safetensors_header(
      R"({"__metadata__": {"format": "pt"},
          "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]},
          "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
          "none": {"dtype": "F16", "shape": [0, 7], "data_offsets": [4, 4]},
          "odd": {"dtype": "U8", "shape": [1], "data_offsets": [16, 17]}}   )",
      17, "f.safetensors");
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  const TensorInfo& b = header.tensors.at("b");
  EXPECT_EQ(b.dtype, DType::kBFloat16);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.offset, 4u);
  EXPECT_EQ(b.bytes, 12u);
  EXPECT_EQ(header.tensors.at("odd").dtype, std::nullopt);
  EXPECT_TRUE(parse_safetensors_header("{}", 0, "f").tensors.empty());
}

TEST(SafetensorsHeaderTest, EveryLieIsAnErrorThatNamesTheTensor) {
  struct Case {
    std::string_view header;
    uint64_t data_bytes;
    std::string_view expected;
  };
  const Case cases[] = {
      {"", 0, "JSON"},
      {"{", 0, "JSON"},
      {"{} x", 0, "JSON"},
      {"[]", 0, "object"},
      {R"({"a": 1})", 0, "tensor a: its entry is not an object"},
      {R"({"__metadata__": {"x": 1}})", 0, "__metadata__"},
      {R"({"a": {"shape": [1], "data_offsets": [0, 4]}})", 4, "tensor a: dtype is missing"},
      {R"({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}})", 4, "\"F7\" is unknown"},
      {R"({"a": {"dtype": 4, "shape": [1], "data_offsets": [0, 4]}})", 4, "is unknown"},
      {R"({"a": {"dtype": "F32", "data_offsets": [0, 4]}})", 4, "shape is missing"},
      {R"({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}})", 4, "not a size"},
      {R"({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}})", 4, "not a size"},
      {R"({"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}})", 4, "not a list"},
      {R"({"a": {"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]}})", 4,
       "at most 8"},
      {R"({"a": {"dtype": "F32", "shape": [1]}})", 4, "data_offsets is missing"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}})", 4, "not a pair"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}})", 4, "not a pair"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}})", 4, "before they begin"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, -4]}})", 4, "before they begin"},
      {R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})", 4, "byte 8 of 4"},
      {R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}})", 4, "needs 8 bytes"},
      {R"({"a": {"dtype": "F32", "shape": [4611686018427387904, 16], "data_offsets": [0, 4]}})", 4,
       "larger than any memory"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
           "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4, "overlaps"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})", 8, "hole"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 9, "5 bytes"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
           "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 4, "\"a\" stands twice"},
      {R"({"a": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}})", 4,
       "stands twice"}};
  for (const Case& c : cases) {
    const std::string error = header_error(c.header, c.data_bytes);
    EXPECT_NE(error.find(c.expected), std::string::npos) << c.header << "\n-> " << error;
    EXPECT_TRUE(error.starts_with("f.safetensors")) << error;
    EXPECT_EQ(error.find('\n'), std::string::npos);
  }
  EXPECT_NE(header_error(std::string(100000, '['), 0).find("JSON"), std::string::npos);
}

class SafetensorsFileTest : public testing::Test {
 protected:
  SafetensorsFileTest() : directory_(fs::path(testing::TempDir()) / "safetensors_test") {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }

  fs::path write_bytes(const std::string& name, std::string_view header, uint64_t header_bytes,
                       uint64_t data_bytes) {
    const fs::path path = directory_ / name;
    std::ofstream file(path, std::ios::binary);
    for (int shift = 0; shift < 64; shift += 8) {
      file.put(static_cast<char>(header_bytes >> shift & 0xff));
    }
    file << header;
    file.close();
    fs::resize_file(path, 8 + header.size() + data_bytes);
    return path;
  }

  void write_tensors(const std::string& file, const std::vector<std::string>& names) {
    std::vector<SafetensorsWriter::Declaration> tensors;
    for (const std::string& name : names) tensors.push_back({name, DType::kFloat32, {2}});
    SafetensorsWriter writer(directory_ / file, tensors);
    for (size_t i = 0; i < names.size(); ++i) {
      const float values[] = {static_cast<float>(names[i].front()), 0.5f};
      writer.write(i, 0, values, sizeof(values));
    }
    writer.finish();
  }

  void write_index(std::string_view text) {
    std::ofstream(directory_ / "model.safetensors.index.json") << text;
  }

  std::string checkpoint_error() {
    return error_of([&] { SafetensorsCheckpoint::open(directory_); });
  }

  fs::path directory_;
};

TEST_F(SafetensorsFileTest, WhatIsWrittenInAnyOrderIsReadBack) {
  const fs::path path = directory_ / "out.safetensors";
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> b = {-7};
  {
    SafetensorsWriter writer(path, {{"a", DType::kFloat32, {2, 3}}, {"b", DType::kInt64, {1}}});
    writer.write(1, 0, b.data(), 8);
    writer.write(0, 12, a.data() + 3, 12);
    EXPECT_FALSE(fs::exists(path));
    writer.write(0, 0, a.data(), 12);
    writer.finish();
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  const TensorInfo* info = file.find("a");
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(info->shape, (std::vector<int64_t>{2, 3}));
  std::vector<float> read(4);
  file.read(*info, 8, 16, read.data());
  EXPECT_EQ(read, (std::vector<float>{3, 4, 5, 6}));
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_FALSE(fs::exists(path.string() + ".partial"));
}

TEST_F(SafetensorsFileTest, AnUnfinishedFileLeavesNothing) {
  { SafetensorsWriter writer(directory_ / "x.safetensors", {{"a", DType::kFloat32, {2}}}); }
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(SafetensorsFileTest, LengthsBeyondTheFileAreErrors) {
  const std::string_view header = "{}";
  EXPECT_NE(error_of([&] { SafetensorsFile::open(write_bytes("a", header, 3, 0)); }).find("header"),
            std::string::npos);
  for (uint64_t length : {uint64_t{1} << 40, UINT64_MAX, UINT64_MAX - 7}) {
    EXPECT_NE(error_of([&] {
                SafetensorsFile::open(write_bytes("a", header, length, 0));
              }).find("download it again"), std::string::npos);
  }
  const fs::path path = directory_ / "short";
  std::ofstream(path) << "1234567";
  EXPECT_NE(error_of([&] { SafetensorsFile::open(path); }).find("too few"), std::string::npos);
  EXPECT_NE(error_of([&] { SafetensorsFile::open(directory_); }).find("not a file"),
            std::string::npos);
  EXPECT_NE(error_of([&] { SafetensorsFile::open(directory_ / "none"); }).find("none"),
            std::string::npos);
}

TEST_F(SafetensorsFileTest, AFileThatShrinksIsAnErrorWhenRead) {
  const std::string_view header =
      R"({"a": {"dtype": "F32", "shape": [100], "data_offsets": [0, 400]}})";
  const fs::path path = write_bytes("a", header, header.size(), 400);
  const SafetensorsFile file = SafetensorsFile::open(path);
  fs::resize_file(path, 200);
  std::vector<float> values(100);
  EXPECT_NE(error_of([&] { file.read(*file.find("a"), 0, 400, values.data()); }).find("shorter"),
            std::string::npos);
}

TEST_F(SafetensorsFileTest, HugeSparseFilesOpenAtOnce) {
  const std::string header =
      R"({"a": {"dtype": "BF16", "shape": [20000000000], "data_offsets": [0, 40000000000]}})";
  const SafetensorsFile file =
      SafetensorsFile::open(write_bytes("a", header, header.size(), 40000000000));
  uint16_t last = 1;
  file.read(*file.find("a"), 39999999998, 2, &last);
  EXPECT_EQ(last, 0);
}

TEST_F(SafetensorsFileTest, ReadsFromSeveralThreads) {
  const fs::path path = directory_ / "t.safetensors";
  std::vector<float> values(1 << 16);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  {
    SafetensorsWriter writer(path, {{"a", DType::kFloat32, {1 << 16}}});
    writer.write(0, 0, values.data(), values.size() * 4);
    writer.finish();
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < values.size(); i += 97) {
        float value = -1;
        file.read(*file.find("a"), i * 4, 4, &value);
        if (value != values[i]) wrong.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_F(SafetensorsFileTest, CheckpointsOfOneFileAndOfShards) {
  write_tensors("model.safetensors", {"a", "b"});
  EXPECT_EQ(SafetensorsCheckpoint::open(directory_).names(), (std::vector<std::string>{"a", "b"}));
  fs::remove(directory_ / "model.safetensors");
  write_tensors("one.safetensors", {"a", "c"});
  write_tensors("two.safetensors", {"b"});
  write_index(R"({"weight_map": {"a": "one.safetensors", "c": "one.safetensors",
                                 "b": "two.safetensors"}})");
  const SafetensorsCheckpoint checkpoint = SafetensorsCheckpoint::open(directory_);
  for (const std::string name : {"a", "b", "c"}) {
    float value = 0;
    checkpoint.read(name, 0, 4, &value);
    EXPECT_EQ(value, static_cast<float>(name.front()));
  }
  EXPECT_EQ(checkpoint.find("d"), nullptr);
}

TEST_F(SafetensorsFileTest, BadCheckpointsSayWhatToDo) {
  const auto expect = [&](std::string_view part) {
    const std::string error = checkpoint_error();
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  expect("download");
  std::ofstream(directory_ / "pytorch_model.bin") << "x";
  expect("safe_serialization");
  write_tensors("one.safetensors", {"a", "c"});
  write_index("{");
  expect("JSON");
  write_index("{}");
  expect("weight_map");
  write_index(R"({"weight_map": {"a": "../one.safetensors"}})");
  expect("beside the index");
  write_index(R"({"weight_map": {"a": "two.safetensors"}})");
  expect("two.safetensors: no such file");
  write_index(R"({"weight_map": {"x": "one.safetensors"}})");
  expect("tensor x is not in one.safetensors");
  write_index(R"({"weight_map": {"a": "one.safetensors"}})");
  expect("tensor c is not where");
  write_index(R"({"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}})");
  expect("stands twice");
  EXPECT_NE(error_of([&] { SafetensorsCheckpoint::open(directory_ / "no"); }).find("no such"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              SafetensorsCheckpoint::open(directory_ / "one.safetensors");
            }).find("not a directory"), std::string::npos);
}

}  // namespace
}  // namespace lorax

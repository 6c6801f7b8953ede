#include "formats/safetensors_writer.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "formats/json_file.h"
#include "formats/safetensors.h"
#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class SafetensorsWriterTest : public TestWithDirectory {
 protected:
  SafetensorsWriterTest() : path_(directory_ / "out.safetensors") {}

  std::string error(const std::vector<SafetensorsWriter::Declaration>& tensors) {
    return error_of([&] { SafetensorsWriter writer(path_, tensors); });
  }

  fs::path path_;
};

TEST_F(SafetensorsWriterTest, WhatIsWrittenInTurnsIsReadBack) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> b = {-7};
  {
    SafetensorsWriter writer(path_, {{"a", DType::kFloat32, {2, 3}},
                                     {"b", DType::kInt64, {1}},
                                     {"none", DType::kFloat32, {3, 0}}});
    writer.write(0, 0, a.data(), 12);
    writer.write(1, 0, b.data(), 8);
    EXPECT_FALSE(fs::exists(path_));
    writer.write(0, 12, a.data() + 3, 12);
    writer.finish();
  }
  EXPECT_FALSE(fs::exists(path_.string() + ".partial"));
  const SafetensorsFile file = SafetensorsFile::open(path_);
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.find("a")->shape, (std::vector<int64_t>{2, 3}));
  std::vector<float> read_a(6);
  file.read(*file.find("a"), 0, 24, read_a.data());
  EXPECT_EQ(read_a, a);
  file.read(*file.find("a"), 8, 16, read_a.data());
  EXPECT_EQ(read_a[0], 3);
  int64_t read_b = 0;
  file.read(*file.find("b"), 0, 8, &read_b);
  EXPECT_EQ(read_b, -7);
  EXPECT_EQ(file.find("none")->bytes, 0u);
}

TEST_F(SafetensorsWriterTest, EveryTypeIsAlignedAndReadBack) {
  const std::vector<SafetensorsWriter::Declaration> tensors = {{"h", DType::kFloat16, {3}},
                                                               {"f", DType::kFloat32, {1}},
                                                               {"b", DType::kBFloat16, {1, 1}},
                                                               {"l", DType::kInt64, {}},
                                                               {"i", DType::kInt32, {1}}};
  {
    SafetensorsWriter writer(path_, tensors);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const std::string bytes(i == 0 ? 6 : size_of(tensors[i].dtype), static_cast<char>('a' + i));
      writer.write(i, 0, bytes.data(), bytes.size());
    }
    writer.finish();
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, read_file(path_, 1 << 20).data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u);
  const SafetensorsFile file = SafetensorsFile::open(path_);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo* info = file.find(tensors[i].name);
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->dtype, tensors[i].dtype);
    EXPECT_EQ(info->offset % size_of(tensors[i].dtype), 0u) << tensors[i].name;
    std::string bytes(info->bytes, '\0');
    file.read(*info, 0, info->bytes, bytes.data());
    EXPECT_EQ(bytes, std::string(info->bytes, static_cast<char>('a' + i)));
  }
}

TEST_F(SafetensorsWriterTest, NoTensors) {
  SafetensorsWriter writer(path_, {});
  writer.finish();
  EXPECT_TRUE(SafetensorsFile::open(path_).tensors().empty());
}

TEST_F(SafetensorsWriterTest, AnUnfinishedFileLeavesWhatWasThere) {
  write_text("out.safetensors", "old");
  { SafetensorsWriter writer(path_, {{"a", DType::kFloat32, {2}}}); }
  EXPECT_EQ(read_file(path_, 100), "old");
  EXPECT_FALSE(fs::exists(path_.string() + ".partial"));
}

TEST_F(SafetensorsWriterTest, NamesThatCannotBe) {
  expect_error(error({{"a", DType::kFloat32, {}}, {"a", DType::kInt64, {}}}), path_.string(),
               "cannot hold a tensor a: there is one of that name");
  expect_error(error({{"__metadata__", DType::kFloat32, {}}}), path_.string(), "keeps that name");
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(SafetensorsWriterTest, PlacesThatCannotBeWritten) {
  const fs::path missing = directory_ / "no" / "out";
  expect_error(error_of([&] { SafetensorsWriter writer(missing, {}); }), missing.string(),
               "cannot be written: No such file");
  expect_error(error_of([&] { SafetensorsWriter writer(directory_, {}); }), directory_.string(),
               "it is a directory");
}

// A limit on the size of files stands for a full disk.
TEST_F(SafetensorsWriterTest, AFullDiskIsAnErrorAndLeavesNothing) {
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1000, old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string text = error_of([&] {
    SafetensorsWriter writer(path_, {{"a", DType::kFloat32, {1000}}});
    const std::vector<float> values(1000);
    writer.write(0, 0, values.data(), 4000);
    writer.finish();
  });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  expect_error(text, path_.string() + ": cannot be written: ", "File too large");
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(SafetensorsWriterTest, GapsAndMissingBytesAreBugs) {
  const std::vector<char> zeros(16);
  SafetensorsWriter writer(path_, {{"a", DType::kFloat32, {2}}});
  EXPECT_DEATH(writer.write(1, 0, zeros.data(), 4), "tensor 1 of 1");
  EXPECT_DEATH(writer.write(0, 4, zeros.data(), 4), "4 bytes at 4 of tensor 0");
  EXPECT_DEATH(writer.write(0, 0, zeros.data(), 9), "9 bytes at 0 of tensor 0");
  writer.write(0, 0, zeros.data(), 4);
  EXPECT_DEATH(writer.write(0, 0, zeros.data(), 4), "which has 4 of 8");
  EXPECT_DEATH(writer.finish(), "tensor 0 has 4 of 8 bytes");
}

}  // namespace
}  // namespace lorax

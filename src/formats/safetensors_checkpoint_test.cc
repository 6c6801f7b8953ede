#include "formats/safetensors_checkpoint.h"

#include <gtest/gtest.h>

#include "formats/safetensors_writer.h"
#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class SafetensorsCheckpointTest : public TestWithDirectory {
 protected:
  // Each tensor is the code of its name's first letter, and 0.5.
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

  void write_index(std::string_view text) { write_text("model.safetensors.index.json", text); }

  // Fails the test unless opening is an Error about that file of the directory.
  void expect_open_error(std::string_view file, std::string_view part) {
    expect_error(error_of([&] { SafetensorsCheckpoint::open(directory_); }),
                 (directory_ / file).string() + ": ", part);
  }
};

TEST_F(SafetensorsCheckpointTest, OneFile) {
  write_tensors("model.safetensors", {"a", "b"});
  const SafetensorsCheckpoint checkpoint = SafetensorsCheckpoint::open(directory_);
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(checkpoint.total_bytes(), 16u);
  EXPECT_EQ(checkpoint.file_of("b"), directory_ / "model.safetensors");
  float values[2] = {};
  checkpoint.read("b", 0, 8, values);
  EXPECT_EQ(values[0], 'b');
  checkpoint.read("b", 4, 4, values);
  EXPECT_EQ(values[0], 0.5f);
}

TEST_F(SafetensorsCheckpointTest, Shards) {
  write_tensors("one.safetensors", {"a", "c"});
  write_tensors("two.safetensors", {"b"});
  write_tensors("other.safetensors", {"z"});
  write_index(R"({"metadata": {"total_size": 1},
                  "weight_map": {"a": "one.safetensors", "c": "one.safetensors",
                                 "b": "two.safetensors"}})");
  SafetensorsCheckpoint opened = SafetensorsCheckpoint::open(directory_);
  const SafetensorsCheckpoint checkpoint = std::move(opened);
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(checkpoint.total_bytes(), 24u);
  for (const std::string name : {"a", "b", "c"}) {
    float value = 0;
    checkpoint.read(name, 0, 4, &value);
    EXPECT_EQ(value, static_cast<float>(name.front()));
  }
  EXPECT_EQ(checkpoint.file_of("b"), directory_ / "two.safetensors");
  EXPECT_EQ(checkpoint.find("z"), nullptr);
  EXPECT_DEATH(checkpoint.file_of("z"), "no tensor z");
}

TEST_F(SafetensorsCheckpointTest, TheSingleFileCountsBeforeTheIndex) {
  write_tensors("model.safetensors", {"a"});
  write_tensors("one.safetensors", {"b"});
  write_index(R"({"weight_map": {"b": "one.safetensors"}})");
  EXPECT_EQ(SafetensorsCheckpoint::open(directory_).names(), std::vector<std::string>{"a"});
}

TEST_F(SafetensorsCheckpointTest, DirectoriesWithoutWeightsSayWhatToDo) {
  const auto expect_advice = [&](std::string_view part) {
    expect_error(error_of([&] { SafetensorsCheckpoint::open(directory_); }), directory_.string(),
                 part);
  };
  expect_advice("has neither model.safetensors nor model.safetensors.index.json; download");
  write_text("weights.Q4_K.gguf", "x");
  expect_advice("download the original of weights.Q4_K.gguf");
  write_text("training_args.bin", "x");
  write_text("pytorch_model.bin", "x");
  expect_advice("convert pytorch_model.bin with save_pretrained(..., safe_serialization=True)");
  write_text("model-00001-of-00002.safetensors", "x");
  expect_advice("has model-00001-of-00002.safetensors, but no index that lists it: download");
  const auto open_error = [&](const fs::path& path) {
    return error_of([&] { SafetensorsCheckpoint::open(path); });
  };
  expect_error(open_error(directory_ / "no"), (directory_ / "no").string(), "no such directory");
  const fs::path file = directory_ / "pytorch_model.bin";
  expect_error(open_error(file), file.string(), "is not a directory");
}

TEST_F(SafetensorsCheckpointTest, AnIndexThatCannotBeRead) {
  constexpr std::string_view kIndex = "model.safetensors.index.json";
  write_tensors("one.safetensors", {"a"});
  struct Case {
    std::string_view text;
    std::string_view expected;
  };
  const Case cases[] = {
      {"{", "not valid JSON at byte 1"},
      {"[]", "weight_map is missing"},
      {"{}", "weight_map is missing"},
      {R"({"weight_map": []})", "weight_map is missing"},
      {R"({"weight_map": {}})", "weight_map is empty"},
      {R"({"weight_map": {"a": 1}})", "tensor a lies in 1, which is not the name"},
      {R"({"weight_map": {"a": ""}})", "beside the index"},
      {R"({"weight_map": {"a": "."}})", "beside the index"},
      {R"({"weight_map": {"a": ".."}})", "beside the index"},
      {R"({"weight_map": {"a": "../one.safetensors"}})", "beside the index"},
      {R"({"weight_map": {"a": "/one.safetensors"}})", "beside the index"},
      {R"({"weight_map": {"a": "..\\one.safetensors"}})", "beside the index"},
      {R"({"weight_map": {"a": "one.safetensors\u0000"}})", "beside the index"},
      {R"({"weight_map": {"a\n": "one/"}})", "tensor a\\x0a lies in"},
      {R"({"weight_map": {"x": "one.safetensors"}})", "tensor x is not in one.safetensors"},
      {R"({"weight_map": {"x\n": "one.safetensors"}})", "tensor x\\x0a is not in"},
      {R"({"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}})", "stands twice"},
      {R"({"weight_map": {"a": "one.safetensors"}, "weight_map": {}})", "stands twice"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    write_index(c.text);
    expect_open_error(kIndex, c.expected);
  }
}

TEST_F(SafetensorsCheckpointTest, ShardsThatDoNotFitTheIndex) {
  write_tensors("one.safetensors", {"a", "c"});
  write_index(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  expect_open_error("two.safetensors", "no such file");
  write_tensors("two.safetensors", {"b"});
  expect_open_error("one.safetensors", "holds tensor c, which " + directory_.string());
  expect_open_error("one.safetensors", "does not list");
  write_tensors("one.safetensors", {"a", "b"});
  expect_open_error("one.safetensors", "lists in another file");
  write_text("two.safetensors", "1234567");
  expect_open_error("two.safetensors", "too few");
  write_tensors("one.safetensors", {"a"});
  write_tensors("two.safetensors", {"b"});
  EXPECT_EQ(SafetensorsCheckpoint::open(directory_).names().size(), 2u);
}

}  // namespace
}  // namespace lorax

#include "models/checkpoint_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class CheckpointFolderTest : public TestWithDirectory {
 protected:
  CheckpointFolderTest() { setenv("HF_HUB_CACHE", (directory_ / "hub").c_str(), 1); }
  ~CheckpointFolderTest() override { unsetenv("HF_HUB_CACHE"); }

  fs::path make(const std::string& name) const {
    fs::create_directories(directory_ / name);
    return directory_ / name;
  }
  fs::path make_checkpoint(const std::string& name) const {
    make(name);
    return write_text(name + "/config.json", "{}").parent_path();
  }
  static std::string error_for(const fs::path& path) {
    return error_of([&] { require_checkpoint(path); });
  }
};

TEST_F(CheckpointFolderTest, TakesADirectoryWithAConfig) {
  EXPECT_EQ(error_for(make_checkpoint("model")), "no error");
}

TEST_F(CheckpointFolderTest, ANameOnTheHubIsFetchedFirst) {
  expect_error(error_for("google/gemma-2-2b-it"), "google/gemma-2-2b-it: ",
               "hf download google/gemma-2-2b-it --local-dir gemma-2-2b-it");
}

TEST_F(CheckpointFolderTest, ANameOnTheHubIsFoundInItsCache) {
  const fs::path snapshot = make_checkpoint("hub/models--google--gemma-2-2b-it/snapshots/299a");
  expect_error(error_for("google/gemma-2-2b-it"), "google/gemma-2-2b-it: ", snapshot.string());
  const fs::path entry = snapshot.parent_path().parent_path();
  expect_error(error_for(entry), entry.string(), snapshot.string());
}

TEST_F(CheckpointFolderTest, AMistypedPathIsNamedWithTheNearest) {
  const fs::path model = make_checkpoint("models/tiny-gemma2");
  expect_error(error_for(directory_ / "models/tiny-gema2"), directory_.string(),
               "did you mean " + model.string() + "?");
  expect_error(error_for(directory_ / "modles/tiny-gemma2"), directory_.string(),
               "did you mean " + (directory_ / "models").string() + "?");
  expect_error(error_for(directory_ / "models/else"), directory_.string(), "has no else");
}

TEST_F(CheckpointFolderTest, APathThatBeginsInThisDirectoryIsNoNameOnTheHub) {
  const fs::path before = fs::current_path();
  make_checkpoint("models/tiny");
  fs::current_path(directory_);
  const std::string error = error_for("models/tinny");
  fs::current_path(before);
  expect_error(error, "models/tinny: no such directory", "did you mean models/tiny?");
}

TEST_F(CheckpointFolderTest, AFileIsNamedWithItsDirectory) {
  const fs::path model = make_checkpoint("model");
  expect_error(error_for(model / "config.json"), model.string(),
               "give the checkpoint's directory, " + model.string());
  expect_error(error_for(write_text("m.gguf", "GGUF")), directory_.string(), "GGUF");
}

TEST_F(CheckpointFolderTest, ADirectoryThatIsNoCheckpointIsNamedForWhatItIs) {
  expect_error(error_for(make("empty")), (directory_ / "empty").string(), "is empty");
  const fs::path adapter = make("adapter");
  write_text("adapter/adapter_config.json", "{}");
  expect_error(error_for(adapter), adapter.string(), "--adapter-id");
  const fs::path gguf = make("gguf");
  write_text("gguf/model.gguf", "GGUF");
  expect_error(error_for(gguf), gguf.string(), "GGUF");
  const fs::path inner = make_checkpoint("outer/inner");
  expect_error(error_for(inner.parent_path()), inner.parent_path().string(), inner.string());
  const fs::path other = make("other");
  write_text("other/readme.txt", "");
  expect_error(error_for(other), other.string(), "has no config.json; a checkpoint is");
}

TEST_F(CheckpointFolderTest, WhatIsNoPathAtAll) {
  expect_error(error_for(""), "the model's path is empty", "config.json");
  expect_error(error_for("https://example.com/model"), "https:", "download");
  expect_error(error_for("a\nb"), "a\\x0ab: no such directory", "no such directory");
}

}  // namespace
}  // namespace lorax

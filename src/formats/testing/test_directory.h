// What the tests of this floor share: an empty directory, and the text of an Error.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/error.h"

namespace lorax {

// The message of the Error that the function throws.
template <typename Function>
std::string error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Fails the test unless the message is one line that has both parts.
inline void expect_error(const std::string& error, std::string_view begin, std::string_view part) {
  EXPECT_TRUE(error.starts_with(begin)) << error;
  EXPECT_NE(error.find(part), std::string::npos) << error << "\n  lacks: " << part;
  EXPECT_EQ(error.find_first_of("\n\r\x1b"), std::string::npos) << error;
  EXPECT_LT(error.size(), 1000u);
}

// Each test has a directory of its own, removed with it.
class TestWithDirectory : public testing::Test {
 protected:
  TestWithDirectory() {
    const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
    directory_ = std::filesystem::path(testing::TempDir()) /
                 fmt::format("{}.{}", test.test_suite_name(), test.name());
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
  }
  ~TestWithDirectory() override { std::filesystem::remove_all(directory_); }

  std::filesystem::path write_text(const std::string& name, std::string_view text) const {
    std::ofstream(directory_ / name, std::ios::binary) << text;
    return directory_ / name;
  }

  // A safetensors file of that header (said to have `header_bytes`) and `data_bytes` zeros.
  std::filesystem::path write_safetensors(const std::string& name, std::string_view header,
                                          uint64_t header_bytes, uint64_t data_bytes) const {
    std::string text;
    for (int shift = 0; shift < 64; shift += 8) {
      text.push_back(static_cast<char>(header_bytes >> shift & 0xff));
    }
    const std::filesystem::path path = write_text(name, text.append(header));
    std::filesystem::resize_file(path, 8 + header.size() + data_bytes);
    return path;
  }

  std::filesystem::path directory_;
};

}  // namespace lorax

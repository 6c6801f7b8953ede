// Gemma 2's real tokenizer of 256,000 pieces, which is too large to ship. Set
// LORAX_GEMMA2_TOKENIZER_DIR to a folder with tokenizer.json (or tokenizer.json.xz) and cases.json,
// {"cases": [{"text", "ids", "decoded", "decoded_skip"}]}, made by Hugging Face's tokenizers.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>

#include "text/bpe_tokenizer.h"
#include "text/testing/golden_cases.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LORAX_SANITIZED 1
#endif
#endif
#if !defined(NDEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    defined(LORAX_SANITIZED)
constexpr bool kIsOptimized = false;
#else
constexpr bool kIsOptimized = true;
#endif
constexpr double kMaxSeconds = 1.0;

// Of this process: other programs on the machine do not count.
double seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

struct CloseProcess {
  void operator()(FILE* process) const { pclose(process); }
};

std::string unpack(const fs::path& file) {
  const std::string command = "xz --decompress --stdout '" + file.string() + "'";
  const std::unique_ptr<FILE, CloseProcess> process(popen(command.c_str(), "r"));
  std::string bytes;
  char buffer[1 << 16];
  while (const size_t count = fread(buffer, 1, sizeof buffer, process.get())) {
    bytes.append(buffer, count);
  }
  return bytes;
}

class Gemma2TokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("LORAX_GEMMA2_TOKENIZER_DIR");
    if (folder == nullptr) GTEST_SKIP() << "LORAX_GEMMA2_TOKENIZER_DIR is not set";
    folder_ = folder;
    const fs::path file = folder_ / "tokenizer.json";
    bytes_ = fs::exists(file) ? testing::read_bytes(file) : unpack(file.string() + ".xz");
    ASSERT_FALSE(bytes_.empty()) << file;
  }

  fs::path folder_;
  std::string bytes_;
};

TEST_F(Gemma2TokenizerTest, GivesTheReferencesIdsAndTexts) {
  const auto tokenizer = BpeTokenizer::from_json(bytes_, "tokenizer.json");
  EXPECT_EQ(tokenizer->vocab_size(), 256000);
  const boost::json::value cases = testing::read_json(folder_ / "cases.json");
  for (const auto& golden : testing::golden_cases(cases.at("cases"))) {
    SCOPED_TRACE(golden.text);
    EXPECT_EQ(tokenizer->encode(golden.text), golden.ids);
    testing::expect_decodes(*tokenizer, golden);
  }
}

TEST_F(Gemma2TokenizerTest, IsFast) {
  if (!kIsOptimized) GTEST_SKIP() << "the limits are for optimized builds without sanitizers";
  double best = kMaxSeconds;
  std::unique_ptr<BpeTokenizer> tokenizer;
  for (int i = 0; i < 3; ++i) {
    const std::clock_t start = std::clock();
    tokenizer = BpeTokenizer::from_json(bytes_, "tokenizer.json");
    best = std::min(best, seconds_since(start));
  }
  fmt::print("loaded in {:.3f} s\n", best);
  EXPECT_LT(best, kMaxSeconds);
  for (const std::string_view repeated :
       {"a", " ", "\n", "😀", "\U0001FAE8", "=", "The cat sat. "}) {
    std::string text;
    while (text.size() < (1 << 20)) text += repeated;
    const std::clock_t start = std::clock();
    EXPECT_FALSE(tokenizer->encode(text).empty());
    const double seconds = seconds_since(start);
    fmt::print("1 MB of \"{}\" encoded in {:.3f} s\n", repeated == "\n" ? "\\n" : repeated,
               seconds);
    EXPECT_LT(seconds, kMaxSeconds) << repeated;
  }
}

}  // namespace
}  // namespace lorax

#define PCRE2_CODE_UNIT_WIDTH 8
#include "adapters/peft/python_regex.h"

#include <pcre2.h>

#include <array>
#include <new>

#include "adapters/peft/python_syntax.h"
#include "base/check.h"
#include "base/error.h"
#include "formats/printable.h"

namespace lorax {
namespace {

// Of one match. Sensible patterns take some hundred steps for the name of a module.
constexpr uint32_t kMaxSteps = 200'000;
constexpr uint32_t kMaxHeapKiB = 4096;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

template <auto free_function>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    free_function(object);
  }
};

// Of a library that tells it as an error of its own.
void check_memory(bool there) {
  if (!there) throw std::bad_alloc();
}

}  // namespace

struct PythonRegex::Compiled {
  std::string pattern;
  std::string origin;
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> context;
  std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> data;
};

PythonRegex::PythonRegex(std::string_view pattern, std::string_view origin)
    : compiled_(std::make_unique<Compiled>()) {
  if (pattern.size() > kMaxBytes) {
    fail("{}: the pattern {} has {} bytes; at most {} are read", origin, printable(pattern),
         pattern.size(), kMaxBytes);
  }
  const std::string problem = python_syntax_problem(pattern);
  if (!problem.empty()) fail("{}: the pattern {} has {}", origin, printable(pattern), problem);
  compiled_->pattern = pattern;
  compiled_->origin = origin;
  const std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>> settings(
      pcre2_compile_context_create(nullptr));
  check_memory(settings != nullptr);
  pcre2_set_newline(settings.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE place = 0;
  compiled_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                      PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &place,
                                      settings.get()));
  if (compiled_->code == nullptr) {
    check_memory(error != PCRE2_ERROR_HEAP_FAILED);
    fail("{}: the pattern {} is no regular expression: {} (at byte {})", origin, printable(pattern),
         message_of(error), place);
  }
  compiled_->context.reset(pcre2_match_context_create(nullptr));
  compiled_->data.reset(pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
  check_memory(compiled_->context != nullptr && compiled_->data != nullptr);
  pcre2_set_match_limit(compiled_->context.get(), kMaxSteps);
  pcre2_set_depth_limit(compiled_->context.get(), kMaxSteps);
  pcre2_set_heap_limit(compiled_->context.get(), kMaxHeapKiB);
}

PythonRegex::~PythonRegex() = default;
PythonRegex::PythonRegex(PythonRegex&&) noexcept = default;
PythonRegex& PythonRegex::operator=(PythonRegex&&) noexcept = default;

bool PythonRegex::run(std::string_view text, unsigned options) const {
  const int result =
      pcre2_match(compiled_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                  options, compiled_->data.get(), compiled_->context.get());
  if (result >= 0) return true;
  if (result == PCRE2_ERROR_NOMATCH) return false;
  check_memory(result != PCRE2_ERROR_NOMEMORY);
  fail("{}: the pattern {} cannot be matched with {}: {}; write a simpler one", compiled_->origin,
       printable(compiled_->pattern), printable(text), message_of(result));
}

bool PythonRegex::fullmatch(std::string_view text) const {
  return run(text, PCRE2_ANCHORED | PCRE2_ENDANCHORED);
}

bool PythonRegex::match(std::string_view text) const { return run(text, PCRE2_ANCHORED); }

std::optional<std::string> PythonRegex::match_group(std::string_view text,
                                                    const char* group) const {
  if (!match(text)) return std::nullopt;
  PCRE2_UCHAR* value = nullptr;
  PCRE2_SIZE length = 0;
  const int result = pcre2_substring_get_byname(
      compiled_->data.get(), reinterpret_cast<PCRE2_SPTR>(group), &value, &length);
  if (result == PCRE2_ERROR_UNSET) return std::nullopt;
  check_memory(result != PCRE2_ERROR_NOMEMORY);
  LORAX_CHECK(result == 0, "group {}: {}", group, message_of(result));
  std::string found(reinterpret_cast<const char*>(value), length);
  pcre2_substring_free(value);
  return found;
}

}  // namespace lorax

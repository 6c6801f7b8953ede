#include "server/api/template_chat_renderer.h"

#include <chrono>
#include <utility>

#include "adapters/merge/merge_recipe.h"
#include "base/error.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using FileTime = fs::file_time_type;

// Of adapters; beyond it all are forgotten, as they are quickly read again. A parsed template takes
// some 20 times its text.
constexpr size_t kMostKept = 4096;
constexpr std::chrono::seconds kErrorAge{1};
constexpr size_t kMostKeptBytes = size_t{4} << 20;  // of text

// The files that hold a folder's template, by when they were last written.
std::vector<FileTime> times_of(const fs::path& folder) {
  std::vector<FileTime> times;
  for (const char* name : {"chat_template.jinja", "tokenizer_config.json"}) {
    std::error_code error;
    const FileTime time = fs::last_write_time(folder / name, error);
    times.push_back(error ? FileTime::min() : time);
  }
  return times;
}

std::string spelled(const Tokenizer& tokenizer, std::optional<int32_t> id) {
  return id ? std::string(tokenizer.piece(*id)) : "";
}

}  // namespace

// Templates that have been read, and what serves them; or why they cannot be.
struct TemplateChatRenderer::Loaded {
  std::vector<FileTime> times;
  ChatTemplates templates;
  std::optional<ChatFormatter> formatter;  // of the default one; none without it
  std::string error;
  Clock::time_point read = Clock::now();

  explicit Loaded(std::string why) : error(std::move(why)) {}
  // Why a file cannot be read may change without it.
  bool is_current() const { return error.empty() || Clock::now() - read < kErrorAge; }

  Loaded(ChatTemplates from, ChatFormatter::Options options) : templates(std::move(from)) {
    if (const ChatTemplate* chosen = templates.choose(/*has_tools=*/false)) {
      formatter.emplace(*chosen, options);
    }
  }
};

TemplateChatRenderer::TemplateChatRenderer(ChatTemplates base, const Tokenizer& tokenizer,
                                           ChatFormatter::Options options, FileBounds bounds)
    : tokenizer_(tokenizer),
      options_(options),
      bounds_(std::move(bounds)),
      base_(std::make_shared<const Loaded>(std::move(base), options)) {}

TemplateChatRenderer::~TemplateChatRenderer() = default;

std::shared_ptr<const TemplateChatRenderer::Loaded> TemplateChatRenderer::find(
    const std::string& adapter) const {
  if (adapter.empty() || parse_merge_id(adapter)) return nullptr;
  const std::vector<FileTime> times = times_of(adapter);
  {
    const std::lock_guard lock(mutex_);
    const auto known = adapters_.find(adapter);
    if (known != adapters_.end() && known->second->times == times && known->second->is_current()) {
      return known->second;
    }
  }
  // An error is kept for a moment: finding it takes as long as reading the template.
  std::shared_ptr<Loaded> loaded;
  try {
    loaded =
        std::make_shared<Loaded>(load_chat_templates(Folder::open(adapter, bounds_)), options_);
  } catch (const Error& error) {
    loaded = std::make_shared<Loaded>(error.what());
  }
  loaded->times = times;
  const size_t bytes = loaded->templates.text_bytes();
  const std::lock_guard lock(mutex_);
  if (adapters_.size() >= kMostKept || kept_bytes_ + bytes > kMostKeptBytes) {
    adapters_.clear();
    kept_bytes_ = 0;
  }
  kept_bytes_ += bytes;  // one that is read anew counts twice until then
  adapters_[adapter] = loaded;
  return loaded;
}

std::shared_ptr<const TemplateChatRenderer::Loaded> TemplateChatRenderer::choose(
    const std::string& adapter) const {
  std::shared_ptr<const Loaded> loaded = find(adapter);
  if (loaded != nullptr && !loaded->error.empty()) fail("{}", loaded->error);
  return loaded == nullptr || !loaded->formatter ? base_ : loaded;
}

bool TemplateChatRenderer::reads(std::string_view variable, const std::string& adapter) const {
  const std::shared_ptr<const Loaded> loaded = choose(adapter);
  return loaded->formatter && loaded->templates.choose(/*has_tools=*/false)->uses(variable);
}

std::string TemplateChatRenderer::render(const Conversation& conversation,
                                         const std::string& adapter) const {
  const std::shared_ptr<const Loaded> loaded = choose(adapter);
  if (!loaded->formatter) {
    fail(
        "the model has no chat template: use a route that takes the prompt as a text, or start "
        "with --tokenizer-config-path");
  }
  ChatInput input;
  input.messages = conversation.messages;
  input.add_generation_prompt = conversation.add_generation_prompt;
  input.variables = conversation.variables;
  input.bos_token = spelled(tokenizer_, tokenizer_.bos_id());
  input.eos_token = spelled(tokenizer_, tokenizer_.eos_id());
  return loaded->formatter->render(std::move(input));
}

}  // namespace lorax

#include "text/tokenizer.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "text/bpe_tokenizer.h"
#include "text/incremental_detokenizer.h"
#include "text/sentencepiece_tokenizer.h"
#include "text/text_file.h"
#include "text/tokenizer_config.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

constexpr std::array kFileNames = {"tokenizer.json", "tokenizer.model"};  // the first one counts

std::unique_ptr<Tokenizer> load_named(const Folder& folder, const fs::path& name) {
  constexpr const char* kConfig = "tokenizer_config.json";
  TokenizerConfig config;
  if (folder.has(kConfig)) {
    config = TokenizerConfig::from_json(read_text_file(folder, kConfig),
                                        (folder.path() / kConfig).string());
  }
  constexpr const char* kMap = "special_tokens_map.json";
  if (config.needs_special_tokens_map && folder.has(kMap)) {
    config.read_special_tokens_map(read_text_file(folder, kMap), (folder.path() / kMap).string());
  }
  config.add_usual_names();
  const std::string bytes = read_text_file(folder, name.string());
  const std::string origin = (folder.path() / name).string();
  if (name.extension() == ".model") {
    return SentencePieceTokenizer::from_bytes(bytes, origin, config);
  }
  return BpeTokenizer::from_json(bytes, origin, config);
}

}  // namespace

Tokenizer::Tokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
  std::ranges::sort(parts_.special_ids);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  IncrementalDetokenizer detokenizer(*this, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.push(id);
  return text += detokenizer.finish();
}

std::optional<int32_t> Tokenizer::find_piece(std::string_view piece) const {
  const int32_t id = parts_.vocabulary.find(piece);
  if (id == Vocabulary::kNone) return std::nullopt;
  return id;
}

void Tokenizer::check_length(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    fail("a text of {} bytes is too long to encode; at most {} are taken", text.size(),
         kMaxTextBytes);
  }
}

bool Tokenizer::is_special(int32_t id) const {
  return std::ranges::binary_search(parts_.special_ids, id);
}

std::unique_ptr<Tokenizer> load_tokenizer(const Folder& folder) {
  for (const char* name : kFileNames) {
    if (folder.has(name)) return load_named(folder, name);
  }
  fail("{}: has no tokenizer; put a tokenizer.json or a tokenizer.model there",
       folder.path().string());
}

bool has_tokenizer(const fs::path& model_dir) {
  return std::ranges::any_of(kFileNames, [&](const char* name) {
    std::error_code ignored;
    return fs::exists(model_dir / name, ignored);
  });
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& model_dir) {
  return load_tokenizer(Folder::open(model_dir));
}

std::unique_ptr<Tokenizer> load_tokenizer_file(const fs::path& file) {
  const fs::path parent = file.parent_path();
  return load_named(Folder::open(parent.empty() ? "." : parent), file.filename());
}

}  // namespace lorax

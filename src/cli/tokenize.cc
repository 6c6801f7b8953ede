// lorax tokenize: texts to ids and back. Needs the tokenizer's files only.
#include <fmt/format.h>

#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "formats/json_file.h"
#include "text/tokenizer.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;

struct Options {
  std::string model_id;
  bool as_json = false;
  bool decode = false;
  bool skip_special = false;
};

std::vector<int32_t> ids_of(const json::value& list, const Tokenizer& tokenizer) {
  const json::array* array = list.if_array();
  if (array == nullptr) fail("standard input: --decode takes a JSON array of arrays of ids");
  std::vector<int32_t> ids;
  for (const json::value& id : *array) {
    const int64_t* number = id.if_int64();
    if (number == nullptr || *number < 0 || *number >= tokenizer.vocab_size()) {
      fail("standard input: {} is not a token id; the vocabulary has ids 0 to {}",
           json::serialize(id), tokenizer.vocab_size() - 1);
    }
    ids.push_back(static_cast<int32_t>(*number));
  }
  return ids;
}

json::value convert(const json::value& item, const Tokenizer& tokenizer, const Options& options) {
  if (options.decode) {
    return json::value(tokenizer.decode(ids_of(item, tokenizer), options.skip_special));
  }
  if (!item.is_string()) fail("standard input: must be a JSON array of strings");
  const std::vector<int32_t> ids = tokenizer.encode(std::string_view(item.get_string()));
  return json::array(ids.begin(), ids.end());
}

void run(const Options& options) {
  const std::unique_ptr<Tokenizer> tokenizer = load_model_tokenizer(options.model_id);
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  if (!options.as_json) {
    if (options.decode) fail("--decode reads arrays of ids: use it with --json");
    fmt::print("{}\n", json::serialize(convert(json::string(input), *tokenizer, options)));
    return;
  }
  const json::value items = parse_json(input, "standard input");
  if (!items.is_array()) fail("standard input: must be a JSON array");
  json::array results;
  for (const json::value& item : items.get_array()) {
    results.push_back(convert(item, *tokenizer, options));
  }
  fmt::print("{}\n", json::serialize(results));
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "tokenize", "Texts on standard input to token ids (no bos is added), or back");
  auto options = std::make_shared<Options>();
  add_model_flag(*command, options->model_id);
  command->add_flag("--json", options->as_json,
                    "Read a JSON array of strings (of id arrays with --decode), write an array; "
                    "without it all of standard input is one text");
  command->add_flag("--decode", options->decode, "From ids to texts");
  command->add_flag("--skip-special-tokens", options->skip_special,
                    "With --decode: leave special tokens out");
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

// lorax logits: the model's raw logits for every position of some requests, for scripts.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "cli/adapter_options.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/run/model_runner.h"
#include "engine/run/runner_sequence.h"
#include "engine/schedule/block_allocator.h"
#include "formats/json_file.h"
#include "formats/printable.h"
#include "formats/safetensors_writer.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;

struct Options {
  std::string model_id;
  std::string requests;
  std::vector<std::string> ignored_adapter_config_keys;
  std::string out;
  int64_t chunk = 0;
  int64_t decode = 0;
  int64_t last = 0;
  int64_t batch = 0;
  DeviceFlags device;
};

// What the file asks for.
struct Requests {
  std::vector<RunnerSequence> sequences;
  std::vector<std::string> adapters;  // ids as of LoadedAdapters
};

void check_fields(const json::object& request, const std::string& where) {
  for (const auto& [key, value] : request) {
    if (key != "input_ids" && key != "adapter_id" && key != "merged_adapters") {
      fail("{}: field \"{}\" is unknown; known: input_ids, adapter_id, merged_adapters", where,
           printable(std::string_view(key)));
    }
  }
}

std::vector<int32_t> read_input_ids(const json::object& request, const std::string& where) {
  const json::value* ids = request.if_contains("input_ids");
  if (ids == nullptr || !ids->is_array()) fail("{}: input_ids must be a list of token ids", where);
  std::vector<int32_t> tokens;
  for (const json::value& id : ids->get_array()) {
    const int64_t* number = id.if_int64();
    if (number == nullptr || *number < INT32_MIN || *number > INT32_MAX) {
      fail("{}: input_ids holds {}; it must be a list of token ids", where, json::serialize(id));
    }
    tokens.push_back(static_cast<int32_t>(*number));
  }
  return tokens;
}

Requests read_requests(const std::string& file, const ModelInfo& info) {
  const json::value value = read_json_file(file);
  const json::array* list = value.if_array();
  if (list == nullptr || list->empty()) {
    fail("{}: must hold a list of requests such as [{{\"input_ids\": [2, 651]}}]", file);
  }
  Requests requests;
  int32_t next_page = 0;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string where = fmt::format("{}: request {}", file, i);
    const json::object* request = (*list)[i].if_object();
    if (request == nullptr) fail("{}: must be an object with \"input_ids\"", where);
    check_fields(*request, where);
    std::vector<int32_t> ids = read_input_ids(*request, where);
    check_prompt(ids, 0, info, where);
    requests.adapters.push_back(read_adapter_id(*request, where));
    requests.sequences.push_back({.tokens = std::move(ids), .cached = 0, .blocks = {}});
    take_pages(requests.sequences.back(), 0, KvCache::kBlockSize, next_page);
  }
  return requests;
}

RunnerLimits limits_for_logits(const std::vector<RunnerSequence>& sequences, int64_t chunk,
                               int64_t vocab_size, int64_t speculative_heads) {
  constexpr int64_t kHeadBytes = int64_t{64} << 20;  // logits computed at a time
  RunnerLimits limits;
  limits.max_sequences = static_cast<int64_t>(sequences.size());
  for (const RunnerSequence& sequence : sequences) {
    limits.max_tokens += std::min(chunk, sequence.length());
    limits.max_length = std::max(limits.max_length, sequence.length());
    limits.kv_blocks += pages_for(sequence.length(), KvCache::kBlockSize);
  }
  limits.max_logits_rows = std::clamp(kHeadBytes / (4 * vocab_size * (1 + speculative_heads)),
                                      int64_t{1}, limits.max_tokens);
  limits.max_speculative_heads = speculative_heads;
  return limits;
}

// How many positions of a sequence are written: its last `last`, or all (0).
int64_t rows_to_write(const RunnerSequence& sequence, int64_t last) {
  return last > 0 ? std::min(last, sequence.length()) : sequence.length();
}

// The file's tensors: "i", and "i.speculative" where the request's adapter has Medusa heads.
class Output {
 public:
  Output(const std::string& path, const std::vector<RunnerSequence>& sequences,
         const std::vector<int64_t>& heads, int64_t last, int64_t vocab_size)
      : vocab_size_(vocab_size) {
    std::vector<SafetensorsWriter::Declaration> tensors;
    for (size_t i = 0; i < sequences.size(); ++i) {
      places_.push_back({.logits = tensors.size(), .heads = heads[i]});
      const int64_t rows = rows_to_write(sequences[i], last);
      tensors.push_back({fmt::format("{}", i), DType::kFloat32, {rows, vocab_size}});
      if (heads[i] == 0) continue;
      tensors.push_back(
          {fmt::format("{}.speculative", i), DType::kFloat32, {rows, heads[i], vocab_size}});
    }
    writer_.emplace(path, tensors);
  }

  // Rows [row, row + count) of request i: what runner.logits(first, count) gives.
  void write(size_t i, int64_t row, ModelRunner& runner, int64_t first, int64_t count) {
    const std::span<const float> logits = runner.logits(first, count);
    const uint64_t row_bytes = static_cast<uint64_t>(vocab_size_) * sizeof(float);
    const uint64_t at = static_cast<uint64_t>(row) * row_bytes;
    writer_->write(places_[i].logits, at, logits.data(), logits.size_bytes());
    const int64_t heads = places_[i].heads;
    if (heads == 0) return;
    LORAX_CHECK(runner.speculative_heads() == heads);
    speculative_.resize(static_cast<size_t>(count * heads * vocab_size_));
    for (int64_t head = 0; head < heads; ++head) {
      const std::span<const float> from = runner.speculative_logits(head);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(from.begin() + r * vocab_size_, vocab_size_,
                    speculative_.begin() + (r * heads + head) * vocab_size_);
      }
    }
    writer_->write(places_[i].logits + 1, at * static_cast<uint64_t>(heads), speculative_.data(),
                   speculative_.size() * sizeof(float));
  }

  void finish() { writer_->finish(); }

 private:
  struct Place {
    size_t logits;  // tensor of the file; the speculative one follows
    int64_t heads;
  };

  int64_t vocab_size_;
  std::vector<Place> places_;
  std::optional<SafetensorsWriter> writer_;
  std::vector<float> speculative_;
};

// Tokens of a sequence in its next step: the last `decode` come one by one.
int64_t next_tokens(const RunnerSequence& sequence, int64_t chunk, int64_t decode) {
  const int64_t pending = sequence.pending();
  return pending > decode ? std::min(chunk, pending - decode) : std::min(int64_t{1}, pending);
}

// Logits come step by step, each with rows of every sequence; the file wants them sequence by
// sequence. They are written straight to their places. Of the sequences, of which the first is
// request `first_request`.
void run_steps(ModelRunner& runner, std::span<RunnerSequence> sequences, size_t first_request,
               int64_t chunk, const Options& options, Output& output) {
  std::vector<SequenceStep> steps;
  std::vector<size_t> members;
  while (true) {
    steps.clear();
    members.clear();
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].pending() == 0) continue;
      steps.push_back(next_step(sequences[i], next_tokens(sequences[i], chunk, options.decode),
                                SequenceStep::Output::kAllRows));
      members.push_back(i);
    }
    if (steps.empty()) return;
    runner.step(steps);
    int64_t row = 0;
    for (size_t s = 0; s < steps.size(); ++s) {
      RunnerSequence& sequence = sequences[members[s]];
      const int64_t first = sequence.length() - rows_to_write(sequence, options.last);
      const int64_t rows = static_cast<int64_t>(steps[s].tokens.size());
      for (int64_t done = std::clamp(first - sequence.cached, int64_t{0}, rows); done < rows;) {
        const int64_t count = std::min(runner.limits().max_logits_rows, rows - done);
        output.write(first_request + members[s], sequence.cached + done - first, runner, row + done,
                     count);
        done += count;
      }
      row += rows;
      sequence.cached += rows;
    }
  }
}

void run(const Options& options) {
  LoadedModel loaded = load_model(options.model_id, options.device);
  const ModelInfo& info = loaded.info();
  Requests requests = read_requests(options.requests, info);
  const LoadedAdapters adapters = load_adapters(loaded, options.model_id, requests.adapters,
                                                options.ignored_adapter_config_keys);
  std::vector<int64_t> heads;
  for (size_t i = 0; i < requests.sequences.size(); ++i) {
    requests.sequences[i].adapter = adapters.slot(requests.adapters[i]);
    requests.sequences[i].adapter_from =
        adapters.acts_from(requests.adapters[i], requests.sequences[i].tokens);
    heads.push_back(adapters.speculative_heads(requests.adapters[i]));
  }
  const int64_t chunk = options.chunk > 0 ? options.chunk : info.max_position_embeddings;
  ModelRunner runner(
      loaded.device(), loaded.model(),
      limits_for_logits(requests.sequences, chunk, info.vocab_size, std::ranges::max(heads)),
      &adapters.tables());
  Output output(options.out, requests.sequences, heads, options.last, info.vocab_size);
  const std::span<RunnerSequence> sequences = requests.sequences;
  const size_t batch =
      options.batch > 0 ? static_cast<size_t>(options.batch) : requests.sequences.size();
  for (size_t first = 0; first < sequences.size(); first += batch) {
    const size_t count = std::min(batch, sequences.size() - first);
    run_steps(runner, sequences.subspan(first, count), first, chunk, options, output);
  }
  output.finish();
}

}  // namespace

void add_logits_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("logits", "Write the logits of every position of some requests");
  auto options = std::make_shared<Options>();
  add_model_flag(*command, options->model_id);
  command
      ->add_option("--requests", options->requests,
                   "JSON file: [{\"input_ids\": [..], \"adapter_id\": null}, ..]; adapter_id is a "
                   "directory or null, merged_adapters an object as in the REST API")
      ->required();
  add_ignored_keys_flag(*command, options->ignored_adapter_config_keys);
  command
      ->add_option("--out", options->out,
                   "safetensors file to write: tensor \"i\" is [positions, vocabulary] float32")
      ->required();
  command
      ->add_option("--chunk", options->chunk,
                   "Tokens of each request per step (default: all at once)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--decode", options->decode,
                   "The last so many tokens of each request one by one, as when generated")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--last", options->last,
                   "Write only this many last positions of each request (default: all)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--batch", options->batch,
                   "Requests that run as one packed batch; so many at a time, in their order "
                   "(default: all at once)")
      ->check(CLI::PositiveNumber);
  options->device.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

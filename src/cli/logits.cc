// lorax logits: the model's raw logits for every position of some requests, for scripts.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <vector>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/model_runner.h"
#include "formats/json_file.h"
#include "formats/safetensors_writer.h"

namespace lorax::cli {
namespace {

namespace json = boost::json;

struct Options {
  std::string model_id;
  std::string requests;
  std::string out;
  int64_t chunk = 0;
  int64_t last = 0;
  DeviceFlags device;
};

std::vector<int32_t> parse_request(const json::value& request, const std::string& where) {
  const json::object* object = request.if_object();
  if (object == nullptr) fail("{}: must be an object with \"input_ids\"", where);
  for (const auto& [key, value] : *object) {
    if (key == "adapter_id" && value.is_null()) continue;
    if (key == "adapter_id") {
      fail("{}: adapter_id {}: this version serves the base model only; use null", where,
           json::serialize(value));
    }
    if (key != "input_ids") {
      fail("{}: field \"{}\" is unknown; known: input_ids, adapter_id", where,
           std::string_view(key));
    }
  }
  const json::value* ids = object->if_contains("input_ids");
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

std::vector<Sequence> read_requests(const std::string& file, const ModelInfo& info) {
  const json::value value = read_json_file(file);
  const json::array* list = value.if_array();
  if (list == nullptr || list->empty()) {
    fail("{}: must hold a list of requests such as [{{\"input_ids\": [2, 651]}}]", file);
  }
  std::vector<Sequence> sequences;
  int32_t next_page = 0;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string where = fmt::format("{}: request {}", file, i);
    std::vector<int32_t> ids = parse_request((*list)[i], where);
    check_prompt(ids, 0, info, where);
    sequences.push_back({.tokens = std::move(ids), .cached = 0, .blocks = {}});
    take_pages(sequences.back(), 0, KvCache::kBlockSize, next_page);
  }
  return sequences;
}

RunnerLimits limits_for_logits(const std::vector<Sequence>& sequences, int64_t chunk,
                               int64_t vocab_size) {
  constexpr int64_t kHeadBytes = int64_t{64} << 20;  // logits computed at a time
  RunnerLimits limits;
  limits.max_sequences = static_cast<int64_t>(sequences.size());
  for (const Sequence& sequence : sequences) {
    limits.max_tokens += std::min(chunk, sequence.length());
    limits.max_length = std::max(limits.max_length, sequence.length());
    limits.kv_blocks += pages_for(sequence.length(), KvCache::kBlockSize);
  }
  limits.max_logits_rows = std::clamp(kHeadBytes / (4 * vocab_size), int64_t{1}, limits.max_tokens);
  return limits;
}

// How many positions of a sequence are written: its last `last`, or all (0).
int64_t rows_to_write(const Sequence& sequence, int64_t last) {
  return last > 0 ? std::min(last, sequence.length()) : sequence.length();
}

// Logits come step by step, each with rows of every sequence; the file wants them sequence by
// sequence. They are written straight to their places.
void run_steps(ModelRunner& runner, std::vector<Sequence>& sequences, int64_t chunk, int64_t last,
               SafetensorsWriter& writer) {
  std::vector<SequenceStep> steps;
  std::vector<size_t> members;
  while (true) {
    steps.clear();
    members.clear();
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].pending() == 0) continue;
      steps.push_back({.sequence = &sequences[i],
                       .tokens = std::min(chunk, sequences[i].pending()),
                       .output = SequenceStep::Output::kAllRows});
      members.push_back(i);
    }
    if (steps.empty()) return;
    runner.step(steps);
    int64_t row = 0;
    for (size_t s = 0; s < steps.size(); ++s) {
      Sequence& sequence = sequences[members[s]];
      const int64_t first = sequence.length() - rows_to_write(sequence, last);
      for (int64_t done = std::clamp(first - sequence.cached, int64_t{0}, steps[s].tokens);
           done < steps[s].tokens;) {
        const int64_t count = std::min(runner.limits().max_logits_rows, steps[s].tokens - done);
        const std::span<const float> logits = runner.logits(row + done, count);
        const int64_t to = sequence.cached + done - first;
        writer.write(members[s], static_cast<uint64_t>(to * runner.vocab_size() * 4), logits.data(),
                     logits.size_bytes());
        done += count;
      }
      row += steps[s].tokens;
      sequence.cached += steps[s].tokens;
    }
  }
}

void run(const Options& options) {
  LoadedModel loaded = load_model(options.model_id, options.device);
  const ModelInfo& info = loaded.info();
  std::vector<Sequence> sequences = read_requests(options.requests, info);
  const int64_t chunk = options.chunk > 0 ? options.chunk : info.max_position_embeddings;
  const RunnerLimits limits = limits_for_logits(sequences, chunk, info.vocab_size);
  ModelRunner runner(loaded.device(), loaded.model(), limits);

  std::vector<SafetensorsWriter::Declaration> tensors;
  for (size_t i = 0; i < sequences.size(); ++i) {
    tensors.push_back({fmt::format("{}", i),
                       DType::kFloat32,
                       {rows_to_write(sequences[i], options.last), info.vocab_size}});
  }
  SafetensorsWriter writer(options.out, tensors);
  run_steps(runner, sequences, chunk, options.last, writer);
  writer.finish();
}

}  // namespace

void add_logits_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("logits", "Write the logits of every position of some requests");
  auto options = std::make_shared<Options>();
  add_model_flag(*command, options->model_id);
  command
      ->add_option("--requests", options->requests,
                   "JSON file: [{\"input_ids\": [..], \"adapter_id\": null}, ..]; all run as one "
                   "packed batch")
      ->required();
  command
      ->add_option("--out", options->out,
                   "safetensors file to write: tensor \"i\" is [positions, vocabulary] float32")
      ->required();
  command
      ->add_option("--chunk", options->chunk,
                   "Tokens of each request per step (default: all at once)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--last", options->last,
                   "Write only this many last positions of each request (default: all)")
      ->check(CLI::PositiveNumber);
  options->device.add_to(*command);
  command->callback([options] { run(*options); });
}

}  // namespace lorax::cli

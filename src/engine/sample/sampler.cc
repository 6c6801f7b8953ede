#include "engine/sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

#include "base/check.h"

namespace lorax {
namespace {

constexpr size_t kAlignment = 16;

// Of a buffer; those that are too small are replaced by larger ones, which waits for the device.
constexpr size_t kLeastBytes = size_t{16} << 10;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

// Gives out consecutive places: first to learn the size, then from memory that is there.
class Sampler::Layout {
 public:
  explicit Layout(char* memory = nullptr) : memory_(memory) {}

  template <typename T>
  T* take(size_t count) {
    char* place = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += aligned(count * sizeof(T));
    return reinterpret_cast<T*>(place);
  }
  size_t bytes() const { return bytes_; }

 private:
  char* memory_;
  size_t bytes_ = 0;
};

// What the kernels of a call read, in device memory or in its copy on the host.
struct Sampler::Inputs {
  Inputs(Layout& layout, const Sampler& sampler, const Call& call)
      : choices(layout.take<SampledRow>(sampler.choices_.size())),
        edited(layout.take<EditedRow>(sampler.edited_.size())),
        edits(layout.take<LogitEdit>(sampler.edits_.size())),
        tops(layout.take<TopRow>(call.tops.size())),
        masks(layout.take<uint32_t>(sampler.masks_.size())),
        given(layout.take<int32_t>(call.given.size())),
        uploaded(layout.bytes()),
        saved(layout.take<float>(sampler.edits_.size())) {}

  SampledRow* choices;
  EditedRow* edited;
  LogitEdit* edits;
  TopRow* tops;
  uint32_t* masks;
  int32_t* given;
  size_t uploaded;  // bytes of all above
  float* saved;     // raw logits of edits
};

// What they give.
struct Sampler::Results {
  Results(Layout& layout, const Call& call)
      : statistics(layout.take<RowStatistics>(static_cast<size_t>(call.rows))),
        ids(layout.take<int32_t>(static_cast<size_t>(call.rows))),
        logits(layout.take<float>(static_cast<size_t>(call.rows))),
        tops(layout.take<TopLogit>(static_cast<size_t>(call.top_places))) {}

  RowStatistics* statistics;
  int32_t* ids;
  float* logits;  // raw, of the tokens
  TopLogit* tops;
};

void Sampler::begin_sample(const Tensor& logits, std::span<const SamplerRow> rows,
                           const Tensor& ids) {
  LORAX_CHECK(logits.dim(0) == static_cast<int64_t>(rows.size()));
  LORAX_CHECK(ids.empty() || ids.dim(0) == logits.dim(0));
  Call& call = next_call();
  call.given.clear();
  pack(call, rows, logits.dim(1));
  begin(call, logits, ids);
}

void Sampler::begin_score(const Tensor& logits, std::span<const int32_t> ids,
                          int32_t alternatives) {
  LORAX_CHECK(logits.dim(0) == static_cast<int64_t>(ids.size()));
  Call& call = next_call();
  call.given.assign(ids.begin(), ids.end());
  scored_rows_.assign(ids.size(), {.state = nullptr, .alternatives = alternatives});
  pack(call, scored_rows_, logits.dim(1));
  begin(call, logits, {});
}

std::span<const SampledToken> Sampler::sample(const Tensor& logits,
                                              std::span<const SamplerRow> rows) {
  LORAX_CHECK(begun_ == 0);
  begin_sample(logits, rows);
  return finish();
}

std::span<const SampledToken> Sampler::score(const Tensor& logits, std::span<const int32_t> ids,
                                             int32_t alternatives) {
  LORAX_CHECK(begun_ == 0);
  begin_score(logits, ids, alternatives);
  return finish();
}

Sampler::Call& Sampler::next_call() {
  if (begun_ == calls_.size()) {
    auto call = std::make_unique<Call>();
    call->done = device_.make_event();
    calls_.push_back(std::move(call));
  }
  return *calls_[begun_++];
}

void Sampler::pack(Call& call, std::span<const SamplerRow> rows, int64_t vocab_size) {
  choices_.clear();
  edited_.clear();
  edits_.clear();
  masks_.clear();
  mask_of_choice_.clear();
  call.rows = static_cast<int64_t>(rows.size());
  call.tops.clear();
  call.top_of_row.assign(rows.size(), -1);
  call.top_places = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t row = static_cast<int32_t>(i);
    if (rows[i].alternatives > 0) {
      const int64_t count = std::min<int64_t>(rows[i].alternatives, vocab_size);
      call.top_of_row[i] = static_cast<int64_t>(call.tops.size());
      call.tops.push_back(
          {.row = row, .count = static_cast<int32_t>(count), .offset = call.top_places});
      call.top_places += count;
    }
    const SamplerState* state = rows[i].state;
    if (state == nullptr || state->is_plain_greedy()) continue;  // the statistics have the token
    choices_.push_back(state->choice(row));
    pack_mask(state->parameters().allowed_ids, vocab_size);
    EditedRow edited;
    if (state->append_edits(row, edits_, edited)) edited_.push_back(edited);
  }
}

void Sampler::pack_mask(std::span<const int32_t> allowed, int64_t vocab_size) {
  mask_of_choice_.push_back(allowed.empty() ? -1 : std::ssize(masks_));
  if (allowed.empty()) return;
  const size_t begin = masks_.size();
  masks_.resize(begin + static_cast<size_t>((vocab_size + 31) / 32), 0);
  for (const int32_t id : allowed) {
    masks_[begin + static_cast<size_t>(id / 32)] |= uint32_t{1} << (id % 32);
  }
}

Sampler::Inputs Sampler::upload(Call& call) {
  Layout measure;
  const Inputs sizes(measure, *this, call);
  if (call.inputs.bytes() < measure.bytes()) {
    const size_t bytes = std::max(2 * measure.bytes(), kLeastBytes);
    call.to_device = HostBuffer(device_, bytes);
    call.inputs = Buffer(device_, bytes);
  }
  Layout host_layout(static_cast<char*>(call.to_device.data()));
  const Inputs host(host_layout, *this, call);
  Layout layout(static_cast<char*>(call.inputs.data()));
  const Inputs on_device(layout, *this, call);
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (mask_of_choice_[i] >= 0) choices_[i].allowed = on_device.masks + mask_of_choice_[i];
  }
  std::ranges::copy(choices_, host.choices);
  std::ranges::copy(edited_, host.edited);
  std::ranges::copy(edits_, host.edits);
  std::ranges::copy(call.tops, host.tops);
  std::ranges::copy(masks_, host.masks);
  std::ranges::copy(call.given, host.given);
  device_.copy_from_host(call.inputs.data(), call.to_device.data(), sizes.uploaded);
  return on_device;
}

void Sampler::begin(Call& call, const Tensor& logits, const Tensor& ids_out) {
  const int64_t n = call.rows;
  if (n == 0) return;
  const Inputs inputs = upload(call);
  Layout measure;
  const Results sizes(measure, call);
  if (call.outputs.bytes() < measure.bytes()) {
    const size_t bytes = std::max(2 * measure.bytes(), kLeastBytes);
    call.from_device = HostBuffer(device_, bytes);
    call.outputs = Buffer(device_, bytes);
    // Between its arrays lie bytes that nothing else writes.
    std::memset(call.from_device.data(), 0, bytes);
    device_.copy_from_host(call.outputs.data(), call.from_device.data(), bytes);
  }
  Layout layout(static_cast<char*>(call.outputs.data()));
  const Results results(layout, call);

  const DeviceList<const EditedRow> edited{inputs.edited, std::ssize(edited_)};
  const Tensor ids(results.ids, DType::kInt32, {n});
  device_.row_statistics(logits, ids, results.statistics);
  if (!call.tops.empty()) {
    device_.top_logits(logits, {inputs.tops, std::ssize(call.tops)}, results.tops);
  }
  // From here to the restoring, logits are not the model's.
  if (edited.size > 0) device_.edit_logits(logits, edited, inputs.edits, inputs.saved);
  if (!choices_.empty()) device_.sample(logits, {inputs.choices, std::ssize(choices_)}, ids);
  if (edited.size > 0) device_.restore_logits(logits, edited, inputs.edits, inputs.saved);
  const Tensor reported = call.given.empty() ? ids : Tensor(inputs.given, DType::kInt32, {n});
  device_.gather_logits(logits, reported, Tensor(results.logits, DType::kFloat32, {n}));

  if (!ids_out.empty()) device_.copy(ids_out.data, ids.data, ids.bytes());
  device_.begin_copy_to_host(call.from_device.data(), call.outputs.data(), measure.bytes());
  call.done->record();
}

std::span<const SampledToken> Sampler::finish() {
  LORAX_CHECK(finished_ < begun_);
  Call& call = *calls_[finished_++];
  if (finished_ == begun_) finished_ = begun_ = 0;
  tokens_.clear();
  if (call.rows == 0) return tokens_;
  call.done->wait();
  Layout layout(static_cast<char*>(call.from_device.data()));
  const Results results(layout, call);
  if (!call.given.empty()) std::ranges::copy(call.given, results.ids);
  for (size_t row = 0; row < static_cast<size_t>(call.rows); ++row) {
    tokens_.push_back(token_of(call, results, row));
  }
  return tokens_;
}

SampledToken Sampler::token_of(const Call& call, const Results& results, size_t row) const {
  const RowStatistics& statistics = results.statistics[row];
  SampledToken token;
  if (statistics.is_usable == 0 || results.ids[row] < 0) {
    token.id = -1;
    token.logprob = std::numeric_limits<float>::quiet_NaN();
    return token;
  }
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - statistics.log_sum_exp);
  };
  token.id = results.ids[row];
  token.logprob = logprob(results.logits[row]);
  if (call.top_of_row[row] < 0) return token;
  const TopRow& request = call.tops[static_cast<size_t>(call.top_of_row[row])];
  TopLogit* begin = results.tops + request.offset;
  TopLogit* end =
      std::remove_if(begin, begin + request.count, [](const TopLogit& top) { return top.id < 0; });
  std::sort(begin, end, [](const TopLogit& a, const TopLogit& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  for (const TopLogit* top = begin; top != end; ++top) {
    token.alternatives.push_back({.id = top->id, .logprob = logprob(top->logit)});
  }
  return token;
}

}  // namespace lorax

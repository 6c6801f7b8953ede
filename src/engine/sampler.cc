#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "base/check.h"

namespace lorax {
namespace {

constexpr size_t kAlignment = 16;

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
  Inputs(Layout& layout, const Sampler& sampler, size_t n_given)
      : choices(layout.take<SampledRow>(sampler.choices_.size())),
        edited(layout.take<EditedRow>(sampler.edited_.size())),
        edits(layout.take<LogitEdit>(sampler.edits_.size())),
        tops(layout.take<TopRow>(sampler.tops_.size())),
        given(layout.take<int32_t>(n_given)),
        uploaded(layout.bytes()),
        saved(layout.take<float>(sampler.edits_.size())) {}

  SampledRow* choices;
  EditedRow* edited;
  LogitEdit* edits;
  TopRow* tops;
  int32_t* given;
  size_t uploaded;  // bytes of all above
  float* saved;     // raw logits of edits
};

// What they give.
struct Sampler::Results {
  Results(Layout& layout, size_t rows, size_t places)
      : statistics(layout.take<RowStatistics>(rows)),
        ids(layout.take<int32_t>(rows)),
        logits(layout.take<float>(rows)),
        tops(layout.take<TopLogit>(places)) {}

  RowStatistics* statistics;
  int32_t* ids;
  float* logits;  // raw, of the tokens
  TopLogit* tops;
};

std::span<const SampledToken> Sampler::sample(const Tensor& logits,
                                              std::span<const SamplerRow> rows) {
  LORAX_CHECK(logits.dim(0) == static_cast<int64_t>(rows.size()));
  pack(rows, logits.dim(1));
  return run(logits, {});
}

std::span<const SampledToken> Sampler::score(const Tensor& logits, std::span<const int32_t> ids,
                                             int32_t alternatives) {
  LORAX_CHECK(logits.dim(0) == static_cast<int64_t>(ids.size()));
  const std::vector<SamplerRow> rows(ids.size(), {.state = nullptr, .alternatives = alternatives});
  pack(rows, logits.dim(1));
  return run(logits, ids);
}

void Sampler::pack(std::span<const SamplerRow> rows, int64_t vocab_size) {
  choices_.clear();
  edited_.clear();
  edits_.clear();
  tops_.clear();
  top_of_row_.assign(rows.size(), -1);
  top_places_ = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t row = static_cast<int32_t>(i);
    if (rows[i].alternatives > 0) {
      const int64_t count = std::min<int64_t>(rows[i].alternatives, vocab_size);
      top_of_row_[i] = static_cast<int64_t>(tops_.size());
      tops_.push_back({.row = row, .count = static_cast<int32_t>(count), .offset = top_places_});
      top_places_ += count;
    }
    const SamplerState* state = rows[i].state;
    if (state == nullptr || state->is_plain_greedy()) continue;  // the statistics have the token
    choices_.push_back(state->choice(row));
    EditedRow edited;
    if (state->append_edits(row, edits_, edited)) edited_.push_back(edited);
  }
}

Sampler::Inputs Sampler::upload(std::span<const int32_t> given) {
  Layout measure;
  const Inputs sizes(measure, *this, given.size());
  if (to_device_.size() < measure.bytes()) {
    to_device_.resize(2 * measure.bytes());
    inputs_ = Buffer(device_, to_device_.size());
  }
  Layout host_layout(to_device_.data());
  const Inputs host(host_layout, *this, given.size());
  std::ranges::copy(choices_, host.choices);
  std::ranges::copy(edited_, host.edited);
  std::ranges::copy(edits_, host.edits);
  std::ranges::copy(tops_, host.tops);
  std::ranges::copy(given, host.given);
  device_.copy_from_host(inputs_.data(), to_device_.data(), sizes.uploaded);
  Layout layout(static_cast<char*>(inputs_.data()));
  return Inputs(layout, *this, given.size());
}

std::span<const SampledToken> Sampler::run(const Tensor& logits, std::span<const int32_t> given) {
  tokens_.clear();
  const int64_t n = logits.dim(0);
  if (n == 0) return tokens_;
  const size_t rows = static_cast<size_t>(n);
  const size_t places = static_cast<size_t>(top_places_);
  const Inputs inputs = upload(given);
  Layout measure;
  const Results sizes(measure, rows, places);
  if (from_device_.size() < measure.bytes()) {
    from_device_.resize(2 * measure.bytes());
    outputs_ = Buffer(device_, from_device_.size());
  }
  Layout layout(static_cast<char*>(outputs_.data()));
  const Results results(layout, rows, places);

  const DeviceList<const EditedRow> edited{inputs.edited, std::ssize(edited_)};
  const Tensor ids(results.ids, DType::kInt32, {n});
  device_.row_statistics(logits, ids, results.statistics);
  if (!tops_.empty()) device_.top_logits(logits, {inputs.tops, std::ssize(tops_)}, results.tops);
  // From here to the restoring, logits are not the model's.
  if (edited.size > 0) device_.edit_logits(logits, edited, inputs.edits, inputs.saved);
  if (!choices_.empty()) device_.sample(logits, {inputs.choices, std::ssize(choices_)}, ids);
  if (edited.size > 0) device_.restore_logits(logits, edited, inputs.edits, inputs.saved);
  const Tensor reported = given.empty() ? ids : Tensor(inputs.given, DType::kInt32, {n});
  device_.gather_logits(logits, reported, Tensor(results.logits, DType::kFloat32, {n}));

  device_.copy_to_host(from_device_.data(), outputs_.data(), measure.bytes());
  Layout host_layout(from_device_.data());
  const Results host(host_layout, rows, places);
  if (!given.empty()) std::ranges::copy(given, host.ids);
  for (size_t row = 0; row < rows; ++row) tokens_.push_back(token_of(host, row));
  return tokens_;
}

SampledToken Sampler::token_of(const Results& results, size_t row) const {
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
  if (top_of_row_[row] < 0) return token;
  const TopRow& request = tops_[static_cast<size_t>(top_of_row_[row])];
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

#include "text/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/utf8.h"

namespace lorax {
namespace {

constexpr char32_t kNoCodePoint = 0xFFFFFFFF;

uint64_t pair_key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

// The code point that the valid, non-empty text starts with.
char32_t first_code_point(std::string_view text) {
  const size_t length = utf8_length_of_lead(text[0]);
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  if (length == 1) return byte(0);
  char32_t code_point = byte(0) & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) code_point = code_point << 6 | (byte(i) & 0x3Fu);
  return code_point;
}

char32_t last_code_point(std::string_view text) {
  size_t lead = text.size() - 1;
  while (lead > 0 && (static_cast<uint8_t>(text[lead]) & 0xC0) == 0x80) --lead;
  return first_code_point(text.substr(lead));
}

}  // namespace

BpeModel::BpeModel(const Vocabulary& vocabulary, std::span<const BpeMerge> merges,
                   BpeOptions options)
    : options_(options), ranks_(merges.size()) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view piece = vocabulary.piece(id);
    if (!piece.empty() && piece.size() == utf8_length_of_lead(piece[0])) {
      code_points_.insert(first_code_point(piece), static_cast<uint32_t>(id));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<size_t>(byte)] = vocabulary.find(fmt::format("<0x{:02X}>", byte));
  }
  std::vector<bool> has_no_code_point(static_cast<size_t>(vocabulary.size()));
  for (const int32_t id : byte_ids_) {
    if (id != Vocabulary::kNone) has_no_code_point[static_cast<size_t>(id)] = true;
  }
  if (options_.unk_id != Vocabulary::kNone) {
    has_no_code_point[static_cast<size_t>(options_.unk_id)] = true;
  }
  results_.reserve(merges.size());
  for (const auto& [left, right, result] : merges) {
    ranks_.insert(pair_key(static_cast<uint32_t>(left), static_cast<uint32_t>(right)),
                  static_cast<uint32_t>(results_.size()));
    results_.push_back(result);
    reached_over_.insert(pair_key(last_code_point(vocabulary.piece(left)),
                                  first_code_point(vocabulary.piece(right))),
                         1);
    if (has_no_code_point[static_cast<size_t>(left)] ||
        has_no_code_point[static_cast<size_t>(right)]) {
      has_boundaries_ = false;
    }
  }
}

uint32_t BpeModel::rank_of(int32_t left, int32_t right) const {
  return ranks_.find(pair_key(static_cast<uint32_t>(left), static_cast<uint32_t>(right)));
}

bool BpeModel::merge_can_reach_over(char32_t left, char32_t right) const {
  if (!has_boundaries_) return true;
  if (left == kNoCodePoint || right == kNoCodePoint) return false;
  return reached_over_.contains(pair_key(left, right));
}

// One call of encode: collects a run of symbols, merges it, appends its ids, and so on.
class BpeEncoding {
 public:
  BpeEncoding(const BpeModel& model, std::vector<int32_t>& ids) : model_(model), ids_(ids) {}

  void encode(std::string_view text) {
    while (!text.empty()) {
      const size_t length = utf8_length_of_lead(text[0]);
      add_code_point(text.substr(0, length));
      text.remove_prefix(length);
    }
    add_pending_unk();
    finish_run();
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;  // no neighbour

  struct Symbol {
    int32_t id;
    uint32_t previous;
    uint32_t next;
    uint32_t rank;  // of the merge with the next, which a symbol that its left took in has not
  };

  void add_code_point(std::string_view text);
  void add_symbol(int32_t id, char32_t code_point);
  void add_pending_unk();
  void finish_run();
  void merge_run();
  void update_rank(uint32_t at);

  const BpeModel& model_;
  std::vector<int32_t>& ids_;
  std::vector<Symbol> run_;
  char32_t last_ = kNoCodePoint;  // of the run's last symbol
  bool unk_is_pending_ = false;
  // Merges that were possible when they were pushed, as rank << 32 | left symbol: the smallest is
  // next. Those that the run has outgrown are recognized when they come up.
  std::vector<uint64_t> queue_;
};

void BpeEncoding::add_code_point(std::string_view text) {
  const char32_t code_point = first_code_point(text);
  const uint32_t id = model_.code_points_.find(code_point);
  if (id != IntMap::kAbsent) {
    add_pending_unk();
    add_symbol(static_cast<int32_t>(id), code_point);
    return;
  }
  const auto byte_id = [&](char byte) { return model_.byte_ids_[static_cast<uint8_t>(byte)]; };
  const auto has_piece = [&](char byte) { return byte_id(byte) != Vocabulary::kNone; };
  if (model_.options_.byte_fallback && std::ranges::all_of(text, has_piece)) {
    // As in the reference, an unknown in front of the bytes stays pending.
    for (const char byte : text) add_symbol(byte_id(byte), kNoCodePoint);
    return;
  }
  if (!model_.options_.fuse_unk) add_pending_unk();
  unk_is_pending_ = model_.options_.unk_id != Vocabulary::kNone;
}

void BpeEncoding::add_pending_unk() {
  if (!unk_is_pending_) return;
  unk_is_pending_ = false;
  add_symbol(model_.options_.unk_id, kNoCodePoint);
}

void BpeEncoding::add_symbol(int32_t id, char32_t code_point) {
  if (!run_.empty() && !model_.merge_can_reach_over(last_, code_point)) finish_run();
  const auto at = static_cast<uint32_t>(run_.size());
  if (at > 0) run_.back().next = at;
  run_.push_back({id, at > 0 ? at - 1 : kNone, kNone, BpeModel::kNoRank});
  last_ = code_point;
}

void BpeEncoding::finish_run() {
  if (run_.empty()) return;
  if (run_.size() > 1) merge_run();
  for (uint32_t at = 0; at != kNone; at = run_[at].next) ids_.push_back(run_[at].id);
  run_.clear();
}

void BpeEncoding::merge_run() {
  for (uint32_t at = 0; at + 1 < run_.size(); ++at) {
    run_[at].rank = model_.rank_of(run_[at].id, run_[at + 1].id);
    if (run_[at].rank != BpeModel::kNoRank) queue_.push_back(uint64_t{run_[at].rank} << 32 | at);
  }
  std::ranges::make_heap(queue_, std::greater<>());
  while (!queue_.empty()) {
    std::ranges::pop_heap(queue_, std::greater<>());
    const auto rank = static_cast<uint32_t>(queue_.back() >> 32);
    const auto at = static_cast<uint32_t>(queue_.back());
    queue_.pop_back();
    Symbol& left = run_[at];
    if (left.rank != rank) continue;
    Symbol& right = run_[left.next];
    left.id = model_.results_[rank];
    left.next = right.next;
    right.rank = BpeModel::kNoRank;
    if (left.next != kNone) run_[left.next].previous = at;
    if (left.previous != kNone) update_rank(left.previous);
    update_rank(at);
  }
}

// Finds the merge of a symbol with its neighbour anew.
void BpeEncoding::update_rank(uint32_t at) {
  Symbol& left = run_[at];
  left.rank = left.next == kNone ? BpeModel::kNoRank : model_.rank_of(left.id, run_[left.next].id);
  if (left.rank == BpeModel::kNoRank) return;
  queue_.push_back(uint64_t{left.rank} << 32 | at);
  std::ranges::push_heap(queue_, std::greater<>());
}

void BpeModel::encode(std::string_view text, std::vector<int32_t>& ids) const {
  BpeEncoding(*this, ids).encode(text);
}

}  // namespace lorax

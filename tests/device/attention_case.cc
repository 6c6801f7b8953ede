#include "attention_case.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

namespace lorax::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int kNowhere = 1 << 24;  // a block far beyond all pages

int blocks_for(int tokens, int block_size) { return (tokens + block_size - 1) / block_size; }

Values part(const Values& values, int64_t begin, int64_t end) {
  return Values(values.begin() + begin, values.begin() + end);
}

}  // namespace

AttentionInputs::AttentionInputs(Device& device, DType dtype, const AttentionCase& test_case)
    : device_(device), dtype_(dtype), case_(test_case) {
  for (const AttentionCase::Sequence& sequence : case_.sequences) {
    blocks_ += blocks_for(sequence.length, case_.block_size);
  }
  blocks_ += 2;  // some belong to nobody
  std::mt19937 random(7);
  std::vector<int> free(static_cast<size_t>(blocks_));
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), random);

  const size_t slots = static_cast<size_t>(blocks_ * case_.block_size);
  Values keys(slots * static_cast<size_t>(kv_width()), kNan);
  Values values = keys;
  for (const auto& [rows, length] : case_.sequences) {
    Sequence sequence;
    const size_t q_size = static_cast<size_t>(rows * case_.shape.heads * case_.shape.head_size);
    const size_t kv_size = static_cast<size_t>(length * kv_width());
    sequence.q = random_values(random, dtype, q_size, case_.query_scale);
    sequence.k = random_values(random, dtype, kv_size);
    sequence.v = random_values(random, dtype, kv_size);
    const int count = blocks_for(length, case_.block_size);
    sequence.blocks.assign(free.end() - count, free.end());
    free.resize(free.size() - static_cast<size_t>(count));
    for (int position = 0; position < length; ++position) {
      const int64_t from = position * kv_width();
      const int64_t to = slot(sequence, position) * kv_width();
      std::copy_n(sequence.k.begin() + from, kv_width(), keys.begin() + to);
      std::copy_n(sequence.v.begin() + from, kv_width(), values.begin() + to);
    }
    sequences_.push_back(std::move(sequence));
  }
  pages_.push_back(make_pages(keys));
  pages_.push_back(make_pages(values));
}

DeviceTensor AttentionInputs::make_pages(const Values& values) const {
  return DeviceTensor(device_, dtype_,
                      {blocks_, case_.block_size, case_.shape.kv_heads, case_.shape.head_size},
                      values);
}

int64_t AttentionInputs::slot(const Sequence& sequence, int position) const {
  const int block = sequence.blocks[static_cast<size_t>(position / case_.block_size)];
  return int64_t{block} * case_.block_size + position % case_.block_size;
}

std::vector<AttentionPiece> AttentionInputs::whole() const {
  std::vector<AttentionPiece> pieces;
  for (size_t i = 0; i < case_.sequences.size(); ++i) {
    pieces.push_back({static_cast<int>(i), 0, case_.sequences[i].rows});
  }
  return pieces;
}

DeviceTensor AttentionInputs::run(const std::vector<AttentionPiece>& pieces) const {
  const int64_t q_width = case_.shape.heads * case_.shape.head_size;
  const int64_t batch_size = static_cast<int64_t>(pieces.size());
  AttentionBatch batch;
  Values cu_seqlens = {0}, lengths, qkv;
  for (const AttentionPiece& piece : pieces) {
    const Sequence& sequence = sequences_[static_cast<size_t>(piece.sequence)];
    for (int64_t row = piece.begin; row < piece.end; ++row) {
      qkv.insert(qkv.end(), sequence.q.begin() + row * q_width,
                 sequence.q.begin() + (row + 1) * q_width);
      qkv.insert(qkv.end(), static_cast<size_t>(2 * kv_width()), kNan);
    }
    cu_seqlens.push_back(cu_seqlens.back() + piece.end - piece.begin);
    lengths.push_back(length(piece));
    batch.max_q = std::max(batch.max_q, piece.end - piece.begin);
    batch.max_kv = std::max(batch.max_kv, length(piece));
  }

  const int max_blocks = blocks_for(batch.max_kv, case_.block_size) + 1;
  Values tables;
  for (const AttentionPiece& piece : pieces) {
    const std::vector<int>& blocks = sequences_[static_cast<size_t>(piece.sequence)].blocks;
    const int used = blocks_for(length(piece), case_.block_size);
    tables.insert(tables.end(), blocks.begin(), blocks.begin() + used);
    tables.insert(tables.end(), static_cast<size_t>(max_blocks - used), kNowhere);
  }

  const int64_t rows = static_cast<int64_t>(cu_seqlens.back());
  const int64_t qkv_width = q_width + 2 * kv_width();
  const DeviceTensor fused(device_, dtype_, {rows, qkv_width}, qkv);
  const DeviceTensor d_cu_seqlens(device_, DType::kInt32, {batch_size + 1}, cu_seqlens);
  const DeviceTensor d_lengths(device_, DType::kInt32, {batch_size}, lengths);
  const DeviceTensor d_tables(device_, DType::kInt32, {batch_size, max_blocks}, tables);
  batch.cu_seqlens_q = d_cu_seqlens;
  batch.kv_lengths = d_lengths;
  batch.block_tables = d_tables;

  const Tensor q =
      fused.tensor().slice(1, 0, q_width).split_last(case_.shape.heads, case_.shape.head_size);
  DeviceTensor out(device_, dtype_, {rows, case_.shape.heads, case_.shape.head_size});
  device_.attention(q, {pages_[0], pages_[1]}, batch, case_.options, out);
  device_.synchronize();
  return out;
}

int AttentionInputs::length(const AttentionPiece& piece) const {
  const auto& [rows, length] = case_.sequences[static_cast<size_t>(piece.sequence)];
  return length - rows + piece.end;
}

Values AttentionInputs::expected(const std::vector<AttentionPiece>& pieces, Values* bounds) const {
  const int64_t q_width = case_.shape.heads * case_.shape.head_size;
  Values all;
  for (const AttentionPiece& piece : pieces) {
    const Sequence& sequence = sequences_[static_cast<size_t>(piece.sequence)];
    const int64_t tokens = length(piece);
    Values piece_bounds;
    const Values out = reference::attention(
        part(sequence.q, piece.begin * q_width, piece.end * q_width),
        part(sequence.k, 0, tokens * kv_width()), part(sequence.v, 0, tokens * kv_width()),
        case_.shape, case_.options, bounds != nullptr ? &piece_bounds : nullptr);
    if (bounds != nullptr) {
      bounds->insert(bounds->end(), piece_bounds.begin(), piece_bounds.end());
    }
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

void AttentionInputs::poison(int sequence, int position) {
  const int64_t at = slot(sequences_[static_cast<size_t>(sequence)], position) * kv_width();
  for (DeviceTensor& pages : pages_) {
    Values values = pages.download();
    std::fill_n(values.begin() + at, kv_width(), kNan);
    pages = make_pages(values);
  }
}

}  // namespace lorax::testing

// Sequences over paged keys and values, for the tests of attention.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "device_tensor.h"
#include "reference_ops.h"

namespace lorax::testing {

struct AttentionCase {
  struct Sequence {
    int rows;    // query rows
    int length;  // tokens, the query rows' among them
  };

  std::string name;
  reference::AttentionShape shape;
  int block_size = 16;
  AttentionOptions options;
  std::vector<Sequence> sequences;
  double query_scale = 1.0;  // of the random queries: q.k has a deviation of this times sqrt(d)
};

inline std::ostream& operator<<(std::ostream& out, const AttentionCase& c) { return out << c.name; }

// Query rows [begin, end) of a sequence, as a step that computes just these sees them: the tokens
// after them are not there yet.
struct AttentionPiece {
  int sequence;
  int begin;
  int end;
};

// Random queries, keys and values of a case on a device, the same in every dtype up to rounding.
// The pages lie in random order; their rows without a token hold NaN.
class AttentionInputs {
 public:
  AttentionInputs(Device& device, DType dtype, const AttentionCase& test_case);

  // All rows of all sequences.
  std::vector<AttentionPiece> whole() const;

  // Device::attention for a step of these pieces, out [T, H, d]. q is a slice of a fused
  // [q | k | v] row; block tables hold nonsense beyond a piece's tokens.
  DeviceTensor run(const std::vector<AttentionPiece>& pieces) const;

  // The same by the reference.
  Values expected(const std::vector<AttentionPiece>& pieces, Values* bounds = nullptr) const;

  // Overwrites a token's key and value on the device with NaN.
  void poison(int sequence, int position);

 private:
  struct Sequence {
    Values q, k, v;           // [rows, H, d], [length, K, d]
    std::vector<int> blocks;  // its pages
  };

  // Where the key and value of a token lie.
  int64_t slot(const Sequence& sequence, int position) const;
  // Tokens of the piece's sequence up to the end of the piece.
  int length(const AttentionPiece& piece) const;
  // [blocks, block_size, K, d] on the device.
  DeviceTensor make_pages(const Values& values) const;
  int64_t kv_width() const { return case_.shape.kv_heads * case_.shape.head_size; }

  Device& device_;
  DType dtype_;
  AttentionCase case_;
  int blocks_ = 0;
  std::vector<Sequence> sequences_;
  std::vector<DeviceTensor> pages_;  // keys, values
};

}  // namespace lorax::testing

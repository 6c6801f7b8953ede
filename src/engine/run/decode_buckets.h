// The sizes that decode steps are filled up to, so that a few captured graphs serve all of them.
#pragma once

#include <algorithm>
#include <cstdint>

namespace lorax {

// 1, 2, 4, 8, 16, 24, 32 and so on in steps of 8, the last of them `most`, whatever it is.
class DecodeBuckets {
 public:
  explicit DecodeBuckets(int64_t most) : most_(most) {}

  // Buckets are numbered from 0.
  int64_t count() const { return index_for(most_) + 1; }
  // The smallest bucket of at least `rows` rows; 1 <= rows <= most.
  int64_t index_for(int64_t rows) const {
    if (rows <= 2) return rows - 1;
    return rows <= 4 ? 2 : 2 + (rows + 7) / 8;
  }
  int64_t rows(int64_t index) const {
    return std::min(most_, index <= 2 ? int64_t{1} << index : 8 * (index - 2));
  }

 private:
  int64_t most_;
};

}  // namespace lorax

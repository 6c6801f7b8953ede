#include "device/cpu/lora.h"

#include <algorithm>
#include <vector>

#include "device/cpu/lora_expand.h"
#include "device/cpu/matmul_rows.h"
#include "device/cpu/scratch.h"
#include "device/cpu/visit_dtype.h"

namespace lorax::cpu {
namespace {

// Panels of B of one job: tens of kilobytes at common ranks.
constexpr int64_t kJobPanels = 16;

}  // namespace

struct Lora::Impl {
  // Rows of one segment that are computed together, and one module: h [rows, rank] = scale * A x.
  struct Piece {
    const LoraEntry* entry;
    LoraTarget target;
    int64_t first_row;  // of those at hand
    int64_t rows;
    int64_t h;  // where its h begins
  };
  struct Job {
    size_t piece;
    int64_t begin, end;  // ranks, or panels
  };

  explicit Impl(ThreadPool& pool) : pool(pool), sums(static_cast<size_t>(pool.size())) {
    for (std::vector<float>& part : sums) part.resize(kSumsFloats);
  }

  // Fills pieces with those of rows [first, last) of `rows`.
  void plan(LoraTargets targets, const LoraRows& rows, int64_t first, int64_t last);
  // One job for each `unit` of a piece's size(piece).
  template <typename Size>
  void make_jobs(int64_t unit, const Size& size);

  void shrink(const Tensor& x, const LoraRows& rows, int64_t first, int64_t last);
  void look_up(const Tensor& ids, float multiplier, const LoraRows& rows, int64_t first);
  void expand(const LoraRows& rows, int64_t first, const Tensor& out);

  ThreadPool& pool;
  std::vector<std::vector<float>> sums;  // one per thread
  Scratch prepared;
  Scratch h_memory;
  float* h = nullptr;
  std::vector<Piece> pieces;
  std::vector<Job> jobs;
};

void Lora::Impl::plan(LoraTargets targets, const LoraRows& rows, int64_t first, int64_t last) {
  const int32_t* segments = rows.segments.as<int32_t>();
  const int32_t* slots = rows.slots.as<int32_t>();
  pieces.clear();
  int64_t floats = 0;
  for (int64_t segment = 0; segment < rows.slots.dim(0); ++segment) {
    const int64_t begin = std::max<int64_t>(first, segments[segment]);
    const int64_t end = std::min<int64_t>(last, segments[segment + 1]);
    for (int64_t row = begin; row < end; row += kJobRows) {
      const int64_t count = std::min(kJobRows, end - row);
      for (const LoraTarget& target : targets) {
        const LoraEntry* entry =
            &rows.table.entries[slots[segment] * rows.table.modules + target.module];
        if (entry->rank == 0) continue;
        pieces.push_back({entry, target, row - first, count, floats});
        floats += count * entry->rank;
      }
    }
  }
  h = reinterpret_cast<float*>(h_memory.ensure(static_cast<size_t>(floats) * sizeof(float)));
}

template <typename Size>
void Lora::Impl::make_jobs(int64_t unit, const Size& size) {
  jobs.clear();
  for (size_t i = 0; i < pieces.size(); ++i) {
    const int64_t all = size(pieces[i]);
    for (int64_t begin = 0; begin < all; begin += unit) {
      jobs.push_back({i, begin, std::min(all, begin + unit)});
    }
  }
}

void Lora::Impl::shrink(const Tensor& x, const LoraRows& rows, int64_t first, int64_t last) {
  const MatmulKernel& kernel = matmul_kernel(x.dtype);
  const int64_t n = x.dim(1);
  const int64_t element = static_cast<int64_t>(size_of(x.dtype));
  const PreparedRows all(kernel, prepared.ensure(PreparedRows::bytes_for(kernel, last - first, n)),
                         last - first, n);
  pool.parallel_for(last - first, [&](int64_t i, int) {
    const int64_t row = rows.rows.as<int32_t>()[first + i];
    all.fill(kernel, i, static_cast<const char*>(x.data) + row * x.stride(0) * element);
  });
  make_jobs(kMaxBlockColumns, [](const Piece& piece) { return piece.entry->rank; });
  pool.parallel_for(static_cast<int64_t>(jobs.size()), [&](int64_t index, int worker) {
    const Job& job = jobs[static_cast<size_t>(index)];
    const Piece& piece = pieces[job.piece];
    const int64_t rank = piece.entry->rank;
    float* job_sums = sums[static_cast<size_t>(worker)].data();
    multiply_columns(kernel, all.slice(piece.first_row, piece.first_row + piece.rows),
                     static_cast<const char*>(piece.entry->a) + job.begin * n * element,
                     n * element, job.end - job.begin, job_sums,
                     [&](int64_t column, int64_t columns) {
                       for (int64_t r = 0; r < piece.rows; ++r) {
                         float* to = h + piece.h + r * rank + job.begin + column;
                         const float* from = job_sums + r * kMaxBlockColumns;
                         for (int64_t c = 0; c < columns; ++c) to[c] = from[c] * piece.entry->scale;
                       }
                     });
  });
}

void Lora::Impl::look_up(const Tensor& ids, float multiplier, const LoraRows& rows, int64_t first) {
  for (const Piece& piece : pieces) {
    const int64_t rank = piece.entry->rank;
    const float factor = multiplier * piece.entry->scale;
    visit_model_dtype(rows.table.dtype, [&]<typename T>(std::type_identity<T>) {
      for (int64_t r = 0; r < piece.rows; ++r) {
        const int64_t row = rows.rows.as<int32_t>()[first + piece.first_row + r];
        const T* a = static_cast<const T*>(piece.entry->a) + ids.as<int32_t>()[row] * rank;
        float* to = h + piece.h + r * rank;
        for (int64_t k = 0; k < rank; ++k) to[k] = static_cast<float>(a[k]) * factor;
      }
    });
  }
}

void Lora::Impl::expand(const LoraRows& rows, int64_t first, const Tensor& out) {
  make_jobs(kJobPanels, [](const Piece& piece) { return lora_panels(piece.target.columns); });
  pool.parallel_for(static_cast<int64_t>(jobs.size()), [&](int64_t index, int) {
    const Job& job = jobs[static_cast<size_t>(index)];
    const Piece& piece = pieces[job.piece];
    expand_lora({.entry = *piece.entry,
                 .dtype = rows.table.dtype,
                 .h = h + piece.h,
                 .rows = rows.rows.as<int32_t>() + first + piece.first_row,
                 .count = piece.rows,
                 .out = out,
                 .column = piece.target.column,
                 .columns = piece.target.columns},
                job.begin, job.end);
  });
}

Lora::Lora(ThreadPool& pool) : impl_(std::make_unique<Impl>(pool)) {}

Lora::~Lora() = default;

void Lora::linear(const Tensor& x, LoraTargets targets, const LoraRows& rows, const Tensor& out) {
  for (int64_t first = 0; first < rows.rows.dim(0); first += kPreparedRows) {
    const int64_t last = std::min(rows.rows.dim(0), first + kPreparedRows);
    impl_->plan(targets, rows, first, last);
    if (impl_->pieces.empty()) continue;
    impl_->shrink(x, rows, first, last);
    impl_->expand(rows, first, out);
  }
}

void Lora::embedding(const Tensor& ids, float multiplier, int64_t module, const LoraRows& rows,
                     const Tensor& out) {
  const LoraTarget target = {module, 0, out.dim(1)};
  for (int64_t first = 0; first < rows.rows.dim(0); first += kPreparedRows) {
    const int64_t last = std::min(rows.rows.dim(0), first + kPreparedRows);
    impl_->plan({&target, 1}, rows, first, last);
    impl_->look_up(ids, multiplier, rows, first);
    impl_->expand(rows, first, out);
  }
}

}  // namespace lorax::cpu

// Tensor maps of pages and matrices, which Hopper's copy engine reads them through.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace lorax::cuda {

// A map of pages [slots, kv_heads, d] of 16-bit elements whose boxes are 64 columns of one head of
// `tokens` neighbouring slots, with the 128-byte swizzle. d is a multiple of 64, `pages` aligned to
// 16 bytes. Lives on the host and holds no resource. False if the driver has no such maps.
bool make_page_map(CUtensorMap& map, const void* pages, int64_t slots, int kv_heads, int d,
                   int tokens);

// A map of a matrix [rows, columns] of bfloat16, rows `stride` elements apart, whose boxes are 64
// columns of `box_rows` rows (at most 256), likewise. stride is a multiple of 8.
bool make_matrix_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns,
                     int64_t stride, int box_rows);

// A map of a dense matrix [rows, columns] of bfloat16 as [columns / 64, rows, 64], whose boxes are
// `box_rows` rows of eight panels of 64 columns, panel by panel, likewise. columns is a multiple of
// 64.
bool make_panel_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns,
                    int box_rows);

}  // namespace lorax::cuda

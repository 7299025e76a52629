// Rows of tokens that are picked, filled in and given positions, in plain memory: what the kernels of CPU and GPU take.
#pragma once

#include "half.h"

namespace eokit {

// out[b][r] = (map[b][r] < 0 ? fill : source[b][map[b][r]]) + positions; E: float, BFloat16 or Float16.
template <class E>
struct MapRows {
  int64_t batches = 0, rows = 0, sources = 0, dim = 0;  // of out (B, R, D), contiguous, and of source (B, S, D)
  const E* source = nullptr;
  int64_t source_batch = 0, source_row = 0;  // strides
  const int64_t* map = nullptr;              // (B, R) contiguous
  const E* fill = nullptr;                   // (D); nullptr: zeros
  const E* positions = nullptr;              // (P, D) or (B, P, D) contiguous rows; nullptr: none
  int64_t positions_batch = 0, positions_rows = 1;
  bool by_output = false;  // the position of a row is that of the output, r, not of the source; modulo P
  E* out = nullptr;
};

}  // namespace eokit

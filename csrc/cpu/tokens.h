// What the CPU kernels for masked tokens compute, in plain memory; the tensors of torch stay in tokens.cpp.
#pragma once

#include "../common/half.h"

namespace eokit {

// out[b][r] = (map[b][r] < 0 ? fill : source[b][map[b][r]]) + positions; E: float, BFloat16 or Float16.
template <class E>
struct MapRows {
  int64_t batches = 0, rows = 0, dim = 0;  // of out (B, R, D), contiguous
  const E* source = nullptr;
  int64_t source_batch = 0, source_row = 0;  // strides
  const int64_t* map = nullptr;              // (B, R) contiguous
  const E* fill = nullptr;                   // (D); nullptr: zeros
  const E* positions = nullptr;              // (P, D) or (B, P, D) contiguous rows; nullptr: none
  int64_t positions_batch = 0, positions_rows = 1;
  bool by_output = false;  // the position of a row is that of the output, r, not of the source; modulo P
  E* out = nullptr;
};

// sums (D) += the rows begin <= i < end of (rows, dim) whose map is negative.
template <class E>
struct SumUnmapped {
  const E* rows = nullptr;
  const int64_t* map = nullptr;
  int64_t dim = 0;
  float* sums = nullptr;
};

template <class E>
struct TokenKernelsOf {
  void (*map_rows)(const MapRows<E>& call, int64_t begin, int64_t end);  // rows begin <= b * R + r < end
  void (*sum_unmapped)(const SumUnmapped<E>& call, int64_t begin, int64_t end);
};

struct TokenKernels {
  TokenKernelsOf<float> f32;
  TokenKernelsOf<BFloat16> bf16;
  TokenKernelsOf<Float16> f16;
};

}  // namespace eokit

// What the CPU kernels for masked tokens compute, in plain memory; the tensors of torch stay in tokens.cpp.
#pragma once

#include "../common/tokens.h"

namespace eokit {

// sums (D) += the rows begin <= i < end of (rows, dim) whose map is negative.
template <class E>
struct SumUnmapped {
  const E* rows = nullptr;
  const int64_t* map = nullptr;
  int64_t dim = 0;
  float* sums = nullptr;
};

// sums (L, D) becomes, for the places begin <= l < end, the sum over b of rows (B, R, D) at map (B, L), nothing where
// that is negative.
template <class E>
struct SumMapped {
  int64_t batches = 0, rows_of_batch = 0, places = 0, dim = 0;
  const E* rows = nullptr;
  const int64_t* map = nullptr;
  float* sums = nullptr;
};

// over_batch (L, D) becomes, for the places begin <= l < end, the sum over b of rows (B, L, D); unmapped (D) += those
// whose map (B, L) is negative.
template <class E>
struct SumGrid {
  int64_t batches = 0, places = 0, dim = 0;
  const E* rows = nullptr;
  const int64_t* map = nullptr;
  float* over_batch = nullptr;
  float* unmapped = nullptr;
};

template <class E>
struct TokenKernelsOf {
  // Rows begin <= b * R + r < end. `past_caches`: whether all are too many to be read from the caches later.
  void (*map_rows)(const MapRows<E>& call, bool past_caches, int64_t begin, int64_t end);
  void (*sum_unmapped)(const SumUnmapped<E>& call, int64_t begin, int64_t end);
  void (*sum_mapped)(const SumMapped<E>& call, int64_t begin, int64_t end);
  void (*sum_grid)(const SumGrid<E>& call, int64_t begin, int64_t end);
};

struct TokenKernels {
  TokenKernelsOf<float> f32;
  TokenKernelsOf<BFloat16> bf16;
  TokenKernelsOf<Float16> f16;
};

}  // namespace eokit

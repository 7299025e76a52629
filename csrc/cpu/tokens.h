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

// The gradients of gathered or scattered tokens for the places begin <= l < end of a grid (B, L, D), whose tokens are
// rows (B, R, D) at map (B, L), or none where that is negative.
template <class E>
struct TokenGradients {
  int64_t batches = 0, places = 0, rows = 0, dim = 0;
  const int64_t* map = nullptr;
  const E* grad = nullptr;     // of what came out: rows where they were gathered, a grid where they were scattered
  E* source = nullptr;         // of what went in: the grid, zeros where no row is, or the rows
  float* positions = nullptr;  // (L, D): sums over b
  float* fill = nullptr;       // (D) += those of places without a row; where tokens were scattered
};

template <class E>
struct TokenKernelsOf {
  // Rows begin <= b * R + r < end. `past_caches`: whether all are too many to be read from the caches later.
  void (*map_rows)(const MapRows<E>& call, bool past_caches, int64_t begin, int64_t end);
  void (*sum_unmapped)(const SumUnmapped<E>& call, int64_t begin, int64_t end);
  // `past_caches`: whether what `source` points to is too much to be read from the caches later.
  void (*gather_gradients)(const TokenGradients<E>& call, bool past_caches, int64_t begin, int64_t end);
  void (*scatter_gradients)(const TokenGradients<E>& call, bool past_caches, int64_t begin, int64_t end);
};

struct TokenKernels {
  TokenKernelsOf<float> f32;
  TokenKernelsOf<BFloat16> bf16;
  TokenKernelsOf<Float16> f16;
};

}  // namespace eokit

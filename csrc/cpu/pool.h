// What the CPU kernels of temporal pooling compute, in plain memory; the tensors of torch stay in pool.cpp.
#pragma once

#include "../common/half.h"

namespace eokit {

// Pixel p of P belongs to sample p / (P / S). Head h of H sees features h D / H .. (h + 1) D / H as values, all as keys.
struct PoolShape {
  int64_t pixels = 0, samples = 0, dates = 0, heads = 0, dim = 0;
  int64_t sample_of(int64_t pixel) const { return pixel / (pixels / samples); }
};

// E: float, BFloat16 or Float16. All other tensors are contiguous float.
template <class E>
struct PoolInputs {
  PoolShape shape;
  const E* x = nullptr;  // (P, T, D), D contiguous
  int64_t x_pixel = 0, x_date = 0;
  const float* queries = nullptr;    // (H, D)
  const float* bias = nullptr;       // (S, T, H): added to the scores
  const float* positions = nullptr;  // (S, T, D / H): added to the values of every head
  const bool* mask = nullptr;        // (P, T); nullptr: every date is valid
};

template <class E>
struct PoolForward : PoolInputs<E> {
  E* out = nullptr;      // (P, D)
  float* lse = nullptr;  // (P, H): log of the sum of exp(scores); +inf where no date is valid
};

template <class E>
struct PoolBackward : PoolInputs<E> {
  const float* lse = nullptr;
  const E* grad_out = nullptr;   // (P, D) contiguous
  E* grad_x = nullptr;           // (P, T, D) contiguous
  float* grad_queries = nullptr;  // is added to, as is
  float* grad_bias = nullptr;
  bool past_caches = false;  // whether grad_x is too large to be read from the caches later
};

template <class E>
struct PoolKernelsOf {
  void (*forward)(const PoolForward<E>& call, int64_t begin, int64_t end);  // pixels
  void (*backward)(const PoolBackward<E>& call, int64_t begin, int64_t end);
};

struct PoolKernels {
  PoolKernelsOf<float> f32;
  PoolKernelsOf<BFloat16> bf16;
  PoolKernelsOf<Float16> f16;
};

}  // namespace eokit

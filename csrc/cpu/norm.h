// What the CPU kernels of group norm and ReLU on rows compute, in plain memory; the tensors of torch stay in norm.cpp.
#pragma once

#include "../common/half.h"

namespace eokit {

// out = relu((z - mean) / sqrt(variance + epsilon) * weight + bias), mean and variance over each group of a row.
template <class E>
struct NormForward {
  int64_t dim = 0, groups = 1;  // of a row; the groups are equal
  float epsilon = 0.0f;
  const E* z = nullptr;  // rows, contiguous
  const float *weight = nullptr, *bias = nullptr;
  E* out = nullptr;  // may be z
};

template <class E>
struct NormBackward : NormForward<E> {
  const E* grad_out = nullptr;
  E* grad_z = nullptr;                                    // may be grad_out
  float *grad_weight = nullptr, *grad_bias = nullptr;  // are added to
};

template <class E>
struct NormKernelsOf {
  void (*forward)(const NormForward<E>& call, int64_t begin, int64_t end);  // rows
  void (*backward)(const NormBackward<E>& call, int64_t begin, int64_t end);
};

struct NormKernels {
  NormKernelsOf<float> f32;
  NormKernelsOf<BFloat16> bf16;
  NormKernelsOf<Float16> f16;
};

}  // namespace eokit

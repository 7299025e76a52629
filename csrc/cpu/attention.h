// What the CPU attention kernels compute, in plain memory; the tensors of torch stay in attention.cpp.
#pragma once

#include "../common/half.h"

namespace eokit {

constexpr int64_t kPanel = 64;           // queries that go through the forward kernel at once
constexpr int64_t kBackwardPanel = 144;  // and through the backward, where sums of keys and values run over the panels
constexpr int64_t kBlock = 192;          // keys: 192 x 64 scores are 48 KiB, 192 x 144 are 108, of which the backward has two
constexpr int64_t kAhead = int64_t{128} << 10;  // bytes that are at least asked of memory before they are wanted

// One call: S sequences (the leading dimensions) of H heads; an item is one head of one sequence, heads fastest.
struct AttentionShape {
  Leading leading;
  int64_t queries = 0, keys = 0, heads = 0, dim = 0;
  float scale = 1.0f;
};

struct KeyMask {
  Sequences<const bool> valid;  // (..., Lk); data == nullptr: every key is valid
};

// E: the elements in memory, float, BFloat16 or Float16. Scores, sums and bias are float.
template <class E>
struct AttentionForward {
  AttentionShape shape;
  Sequences<const E> q, k, v;
  KeyMask mask;
  Sequences<const float> bias;  // transposed, (..., H, Lk, Lq), stride 0 where it is shared; data == nullptr: none
  Sequences<E> out;
  int64_t parts = 1;     // that the queries of an item are split into; a part of an item is what a thread takes
  bool past_caches = false;  // whether `out` is too large to be read from the caches later
  int64_t ahead = kAhead;  // bytes that may be asked of memory before they are wanted
  float* lse = nullptr;  // (..., H, Lq) contiguous: log of the sum of exp(scores); +inf where no key is valid
};

template <class E>
struct AttentionBackward {
  AttentionShape shape;
  Sequences<const E> grad_out, q, k, v;
  Sequences<const E> out;  // only read where the valid keys go in several blocks
  KeyMask mask;
  Sequences<const float> bias;
  const float* lse = nullptr;
  Sequences<E> grad_q, grad_k, grad_v;
  bool past_caches = false;  // whether they are too large to be read from the caches later
  int64_t ahead = kAhead;
  Sequences<float> grad_bias;  // is added to, like bias; data == nullptr: not wanted
};

// Forward works on the parts begin <= item * parts + part < end, backward on the items begin <= item < end. They share
// nothing but grad_bias, so the result is the same however they are spread.
template <class E>
struct KernelPair {
  void (*forward)(const AttentionForward<E>& problem, int64_t begin, int64_t end);
  void (*backward)(const AttentionBackward<E>& problem, int64_t begin, int64_t end);
};

struct AttentionKernels {
  KernelPair<float> f32;
  KernelPair<BFloat16> bf16;
  KernelPair<Float16> f16;
};

}  // namespace eokit

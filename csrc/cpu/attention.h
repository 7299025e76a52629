// What the CPU attention kernels compute, in plain memory; the tensors of torch stay in attention.cpp.
#pragma once

#include "../common/strided.h"
#include "instruction_set.h"

namespace eokit {

// One call: S sequences (the leading dimensions) of H heads; an item is one head of one sequence, heads fastest.
struct AttentionShape {
  Leading leading;
  int64_t queries = 0, keys = 0, heads = 0, dim = 0;
  float scale = 1.0f;
};

struct KeyMask {
  Sequences<const bool> valid;  // (..., Lk); data == nullptr: every key is valid
};

struct AttentionForward {
  AttentionShape shape;
  Sequences<const float> q, k, v;
  KeyMask mask;
  Sequences<float> out;
  float* lse = nullptr;  // (..., H, Lq) contiguous: log of the sum of exp(scores); +inf where no key is valid
};

struct AttentionBackward {
  AttentionShape shape;
  Sequences<const float> grad_out, q, k, v, out;
  KeyMask mask;
  const float* lse = nullptr;
  Sequences<float> grad_q, grad_k, grad_v;
};

// Both work on the items begin <= item < end. Items share nothing, so the result is the same however they are spread.
struct AttentionKernels {
  void (*forward)(const AttentionForward& problem, int64_t begin, int64_t end);
  void (*backward)(const AttentionBackward& problem, int64_t begin, int64_t end);
};

#ifdef EOKIT_X86
extern const AttentionKernels kAttentionAvx512;
extern const AttentionKernels kAttentionAvx2;
#endif
extern const AttentionKernels kAttentionPortable;

}  // namespace eokit

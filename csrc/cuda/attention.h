// What the CUDA attention kernels compute, in plain memory: the argument of their launches, passed by value.
#pragma once

#include "tiles.h"

namespace eokit {

constexpr int kHeader = 128;  // bytes at the start of shared memory: the coordinates of the block's sequence

// One call: S sequences (the leading dimensions) of H heads. bytes: common width of staged rows; in_pairs: whether two
// elements of q, out and the gradients may be accessed at once.
struct AttentionShape {
  Leading leading;
  int queries = 0, keys = 0, heads = 0, dim = 0;
  float scale = 1.0f;
  int bytes = 2;
  bool in_pairs = false;
};

template <class E>
struct AttentionForward {
  AttentionShape shape;
  Sequences<const E> q, k, v;
  Sequences<const bool> mask;   // (..., Lk); data == nullptr: every key is valid
  Sequences<const float> bias;  // transposed, (..., H, Lk, Lq), stride 0 where it is shared; data == nullptr: none
  Sequences<E> out;
  float* lse = nullptr;  // (..., H, Lq) contiguous: natural log of the sum of exp(scores); +inf where no key is valid
  int heads = 1;         // adjacent ones that a block takes
  int warps = 1;         // per head
  int stages = 1;        // blocks of keys that shared memory has room for, no more than there are
};

// A block takes the heads `head` or, where they share a bias gradient, all heads of the sequences of one part.
template <class E>
struct AttentionBackward {
  AttentionShape shape;
  Sequences<const E> grad_out, q, k, v, out;
  Sequences<const bool> mask;
  Sequences<const float> bias;
  const float* lse = nullptr;
  Sequences<E> grad_q, grad_k, grad_v;
  Sequences<float> grad_bias;  // data == nullptr: not wanted
  int64_t part_stride = 0;     // of grad_bias from part to part, which are added to; 0: written, nothing is shared
  int64_t sequences = 0, parts = 0;
  bool heads_together = false;
  int warps = 1;             // in a block
  int passes = 1;            // over the keys
  float* partial = nullptr;  // (S * H, Lq, D of the kernel): dQ of the passes so far; nullptr: one pass
};

}  // namespace eokit

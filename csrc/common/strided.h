// Views of strided memory for the kernels; no torch, so that the same headers serve C++ and CUDA.
#pragma once

#include <cstdint>

// Always inlined: a copy of its own, compiled for the widest instruction set, could end up being called on a CPU without.
#ifdef __CUDACC__
#define EOKIT_INLINE __host__ __device__ __forceinline__
#else
#define EOKIT_INLINE inline __attribute__((always_inline))
#endif

namespace eokit {

constexpr int kMaxLeading = 16;

// The leading dimensions that every tensor of one call shares: (..., L, H, D) has everything before L in here.
struct Leading {
  int count = 0;
  int64_t sizes[kMaxLeading] = {};

  EOKIT_INLINE int64_t total() const {
    int64_t product = 1;
    for (int d = 0; d < count; ++d) product *= sizes[d];
    return product;
  }

  // Writes the coordinates of the `index`-th sequence, last dimension fastest.
  EOKIT_INLINE void unravel(int64_t index, int64_t* coordinates) const {
    for (int d = count - 1; d >= 0; --d) {
      coordinates[d] = index % sizes[d];
      index /= sizes[d];
    }
  }
};

// A tensor (..., L, H, D) whose last dimension is contiguous. Strides count elements.
template <class T>
struct Sequences {
  T* data = nullptr;
  int64_t row = 0;   // stride of L: from one token of a sequence to the next
  int64_t head = 0;  // stride of H
  int64_t leading[kMaxLeading] = {};

  // First element of the sequence at `coordinates`, head 0.
  EOKIT_INLINE T* at(const int64_t* coordinates, int count) const {
    T* pointer = data;
    for (int d = 0; d < count; ++d) pointer += coordinates[d] * leading[d];
    return pointer;
  }
};

}  // namespace eokit

// What the CUDA kernels use of the hardware, one function each. The kernels are written over these names alone, so that
// tests/ops/cuda_emulator.h, which defines the same names for a CPU, runs them without a GPU.
#pragma once

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../common/half.h"

#define EOKIT_DEVICE __device__ __forceinline__

namespace eokit {

EOKIT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
EOKIT_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
EOKIT_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }
EOKIT_DEVICE int64_t grid_blocks() { return static_cast<int64_t>(gridDim.x); }
EOKIT_DEVICE void sync_block() { __syncthreads(); }
EOKIT_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
EOKIT_DEVICE uint32_t ballot(bool x) { return __ballot_sync(0xffffffffu, x); }
EOKIT_DEVICE float power_of_two(float x) { return exp2f(x); }
EOKIT_DEVICE float log_of(float x) { return logf(x); }

// Loads after it are not moved before it, by ptxas neither: many at once cost registers that the kernels do not have.
// Called by whole warps.
EOKIT_DEVICE void keep_order() { __syncwarp(); }

// x, of which the compiler knows nothing: what is computed from it is not kept in registers around a loop.
EOKIT_DEVICE int computed_here(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Two numbers rounded to E, the first in the lower half: an operand register of mma.
EOKIT_DEVICE uint32_t pack(BFloat16, float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}
EOKIT_DEVICE uint32_t pack(Float16, float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

// c (16, 8) += a (16, 16) b (16, 8), spread over the lanes of a warp as drawn in docs/kernels.md.
EOKIT_DEVICE void multiply_add(BFloat16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
EOKIT_DEVICE void multiply_add(Float16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

EOKIT_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Four 8 x 8 matrices of 16-bit elements: lane 8 m + r gives the address of row r of matrix m; a lane gets elements
// (lane / 4, 2 (lane % 4) + 0..1) of each, of its transpose for the second.
EOKIT_DEVICE void load_matrices(uint32_t (&to)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(shared_row))
               : "memory");
}
EOKIT_DEVICE void load_transposed(uint32_t (&to)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// Starts a copy of kBytes (4, 8 or 16), or of zeros where it is not real; then `from` is not read.
template <int kBytes>
EOKIT_DEVICE void copy_async(void* shared, const void* from, bool real) {
  const int size = real ? kBytes : 0;
  if constexpr (kBytes == 16)  // past L1: a row is read by one block only
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(from), "r"(size)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(shared)), "l"(from),
                 "n"(kBytes), "r"(size)
                 : "memory");
}
EOKIT_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Until at most `pending` of the groups committed last are on their way.
EOKIT_DEVICE void wait_for_copies(int pending) {
  switch (pending) {
    case 0: asm volatile("cp.async.wait_group 0;\n" ::: "memory"); break;
    case 1: asm volatile("cp.async.wait_group 1;\n" ::: "memory"); break;
    case 2: asm volatile("cp.async.wait_group 2;\n" ::: "memory"); break;
    default: asm volatile("cp.async.wait_group 3;\n" ::: "memory"); break;
  }
}

}  // namespace eokit

#endif  // __CUDACC__

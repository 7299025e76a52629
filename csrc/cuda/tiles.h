// Tiles of 16-bit elements in shared memory and in the registers of a warp, for products of m16n8k16.
//
// In registers, with g = lane / 4 and p = 2 (lane % 4); every pair p, p + 1 lies in one register:
//   A (16, 16)  a0 = (g, p)  a1 = (g + 8, p)  a2 = (g, p + 8)  a3 = (g + 8, p + 8)
//   B (16, 8)   b0 = (p, g)  b1 = (p + 8, g)
//   C (16, 8)   c0, c1 = (g, p), (g, p + 1)   c2, c3 = (g + 8, p), (g + 8, p + 1)
// Two tiles of C side by side, rounded, are therefore an A: P goes from one product into the next without moving.
#pragma once

#include "../common/half.h"
#include "device.h"

namespace eokit {

constexpr int kWarp = 32;
constexpr int kTile = 16;  // rows and columns of A
constexpr int kPad = 8;    // elements after a row in shared memory: rows then start in different banks for ldmatrix
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

EOKIT_INLINE constexpr int tiles_of(int length) { return (length + kTile - 1) / kTile; }
EOKIT_INLINE constexpr int smaller(int a, int b) { return a < b ? a : b; }

// This lane's place in a C: row g, and the first of its two columns.
EOKIT_INLINE int row_of(int lane) { return lane / 4; }
EOKIT_INLINE int column_of(int lane) { return lane % 4 * 2; }

// Which row of which 8 x 8 matrix a lane names to ldmatrix, as an offset into a 16 x 16 tile. The four matrices go down
// first (0, 0), (8, 0), (0, 8), (8, 8) or right first (0, 0), (0, 8), (8, 0), (8, 8).
EOKIT_INLINE int down_first(int lane, int stride) { return (lane % 16) * stride + lane / 16 * 8; }
EOKIT_INLINE int right_first(int lane, int stride) { return (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8; }

// A and B from the tile that begins at `tile`. A: rows of the tile are rows of A, or columns of it. B: two of them side
// by side, {b0, b1} each; the rows of the tile are columns of B (as in Q K^T), or rows of it (as in P V).
template <class E>
EOKIT_DEVICE void load_a(uint32_t (&a)[4], const E* tile, int stride, int lane) {
  load_matrices(a, tile + down_first(lane, stride));
}
template <class E>
EOKIT_DEVICE void load_a_transposed(uint32_t (&a)[4], const E* tile, int stride, int lane) {
  load_transposed(a, tile + right_first(lane, stride));
}
template <class E>
EOKIT_DEVICE void load_b_of_columns(uint32_t (&b)[4], const E* tile, int stride, int lane) {
  load_matrices(b, tile + right_first(lane, stride));
}
template <class E>
EOKIT_DEVICE void load_b_of_rows(uint32_t (&b)[4], const E* tile, int stride, int lane) {
  load_transposed(b, tile + down_first(lane, stride));
}

// c (16, 16), as two C side by side, += a b.
template <class E>
EOKIT_DEVICE void multiply_add_two(float (&left)[4], float (&right)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  multiply_add(E{}, left, a, b[0], b[1]);
  multiply_add(E{}, right, a, b[2], b[3]);
}

template <class E>
EOKIT_DEVICE void round_to_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack(E{}, left[0], left[1]);
  a[1] = pack(E{}, left[2], left[3]);
  a[2] = pack(E{}, right[0], right[1]);
  a[3] = pack(E{}, right[2], right[3]);
}

// Rows in device memory that go to shared memory: row r of head h at data + r * row + h * head; `valid` may leave out
// rows. What is left out, and the rows from `length` on, become zeros and are not read.
template <class E>
struct StagedRows {
  const E* data;
  int64_t row, head;
  int length, heads, dim;
  const bool* valid;
  int64_t valid_row;
};

// Copies the first `rows` rows to (heads, rows, D + kPad) by accesses of kBytes; adjacent threads take adjacent elements,
// over the heads too, so that a row of several heads is read in one stretch.
template <int D, int kBytes, class E>
EOKIT_DEVICE void stage_by(E* to, const StagedRows<E>& from, int rows) {
  constexpr int kChunk = kBytes / static_cast<int>(sizeof(E)), kChunks = D / kChunk;
  const int in_row = from.heads * kChunks;
#pragma unroll 1
  for (int i = computed_here(thread_index()); i < rows * in_row; i += block_threads()) {
    const int r = i / in_row, h = i % in_row / kChunks, d = i % kChunks * kChunk;
    const bool real = r < from.length && d < from.dim && (from.valid == nullptr || from.valid[r * from.valid_row]);
    E* into = to + (h * rows + r) * (D + kPad) + d;
    const E* source = real ? from.data + r * from.row + h * from.head + d : from.data;
    if constexpr (kBytes >= 4)
      copy_async<kBytes>(into, source, real);
    else if (real)
      *into = *source;
    else
      from_float(0.0f, into);
  }
}

// `bytes`: what pointers, strides and the dimension are all multiples of.
template <int D, class E>
EOKIT_DEVICE void stage(E* to, const StagedRows<E>& from, int rows, int bytes) {
  switch (bytes) {
    case 16: return stage_by<D, 16>(to, from, rows);
    case 8: return stage_by<D, 8>(to, from, rows);
    case 4: return stage_by<D, 4>(to, from, rows);
    default: return stage_by<D, 2>(to, from, rows);
  }
}

// Two elements at columns d, d + 1 of a row in device memory, in one access where `in_pairs`.
template <class E>
EOKIT_DEVICE uint32_t load_pair(const E* row, int d, int dim, bool in_pairs) {
  if (d >= dim) return 0;
  if (in_pairs) return *reinterpret_cast<const uint32_t*>(row + d);
  return static_cast<uint32_t>(row[d].bits) | (d + 1 < dim ? static_cast<uint32_t>(row[d + 1].bits) << 16 : 0u);
}
template <class E>
EOKIT_DEVICE void store_pair(E* row, int d, int dim, bool in_pairs, float first, float second) {
  if (d >= dim) return;
  const uint32_t both = pack(E{}, first, second);
  if (in_pairs) {
    *reinterpret_cast<uint32_t*>(row + d) = both;
    return;
  }
  row[d].bits = static_cast<uint16_t>(both);
  if (d + 1 < dim) row[d + 1].bits = static_cast<uint16_t>(both >> 16);
}

}  // namespace eokit

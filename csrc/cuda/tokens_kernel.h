// Rows of tokens that are picked, filled in and given their positions in one pass; the CUDA kernels of tokens.cu.
#pragma once

#include "../common/half.h"
#include "device.h"

namespace eokit {

// out[b][r] = (map[b][r] < 0 ? fill : source[b][map[b][r]]) + positions; E: float, BFloat16 or Float16.
template <class E>
struct MapRows {
  int64_t batches = 0, rows = 0, sources = 0, dim = 0;  // of out (B, R, D), contiguous, and of source (B, S, D)
  const E* source = nullptr;
  int64_t source_batch = 0, source_row = 0;  // strides
  const int64_t* map = nullptr;              // (B, R) contiguous
  const E* fill = nullptr;                   // (D); nullptr: zeros
  const E* positions = nullptr;              // (P, D) or (B, P, D) contiguous; nullptr: none
  int64_t positions_batch = 0, positions_rows = 1;
  bool by_output = false;  // the position of a row is that of the output, r, not of the source; modulo P
  E* out = nullptr;
  int lanes = 1;  // threads that share a row, a power of two
};

// kCount elements that are moved by one access.
template <class E, int kCount>
struct alignas(sizeof(E) * kCount) Pack {
  E at[kCount];
};

template <class E, int kCount>
EOKIT_DEVICE Pack<E, kCount> packed(const E* from) {
  return *reinterpret_cast<const Pack<E, kCount>*>(from);
}

template <class E, int kCount>
EOKIT_DEVICE Pack<E, kCount> zeros() {
  Pack<E, kCount> x;
#pragma unroll
  for (int i = 0; i < kCount; ++i) from_float(0.0f, &x.at[i]);
  return x;
}

template <class E, int kCount>
EOKIT_DEVICE Pack<E, kCount> sum(const Pack<E, kCount>& a, const Pack<E, kCount>& b) {
  Pack<E, kCount> x;
#pragma unroll
  for (int i = 0; i < kCount; ++i) from_float(to_float(a.at[i]) + to_float(b.at[i]), &x.at[i]);
  return x;
}

// `lanes` threads write a row, kCount elements each at a time; the rows go round the grid.
template <class E, int kCount>
EOKIT_DEVICE void map_rows_block(const MapRows<E>& call) {
  using Elements = Pack<E, kCount>;
  const int lane = thread_index() % call.lanes, row_in_block = thread_index() / call.lanes;
  const int64_t at_once = block_threads() / call.lanes;
  for (int64_t i = block_index() * at_once + row_in_block; i < call.batches * call.rows; i += grid_blocks() * at_once) {
    const int64_t b = i / call.rows, r = i % call.rows, from = call.map[i];
    const bool inside = from < call.sources;  // what EOKIT_CHECK=1 would refuse is filled, never read
    const E* row = from >= 0 && inside ? call.source + b * call.source_batch + from * call.source_row : call.fill;
    const int64_t place = call.by_output ? r : from;
    const E* position = call.positions != nullptr && place >= 0 && inside
                            ? call.positions + b * call.positions_batch + place % call.positions_rows * call.dim
                            : nullptr;
    for (int64_t d = static_cast<int64_t>(lane) * kCount; d < call.dim; d += static_cast<int64_t>(call.lanes) * kCount) {
      Elements x = row != nullptr ? packed<E, kCount>(row + d) : zeros<E, kCount>();
      if (position != nullptr) x = sum(x, packed<E, kCount>(position + d));
      *reinterpret_cast<Elements*>(call.out + i * call.dim + d) = x;
    }
  }
}

// sums (parts, D): a part of fixed extent of the rows (count, D) whose map is negative; a block per part.
template <class E>
struct SumUnmapped {
  const E* rows = nullptr;
  const int64_t* map = nullptr;
  int64_t count = 0, dim = 0, parts = 1;
  float* sums = nullptr;
};

template <class E, int kCount>
EOKIT_DEVICE void sum_unmapped_block(const SumUnmapped<E>& call) {
  const int64_t part = block_index(), begin = part * call.count / call.parts;
  const int64_t end = (part + 1) * call.count / call.parts, step = static_cast<int64_t>(block_threads()) * kCount;
  for (int64_t d = static_cast<int64_t>(thread_index()) * kCount; d < call.dim; d += step) {
    float total[kCount] = {};
    for (int64_t i = begin; i < end; ++i) {
      if (call.map[i] >= 0) continue;
      const Pack<E, kCount> x = packed<E, kCount>(call.rows + i * call.dim + d);
#pragma unroll
      for (int e = 0; e < kCount; ++e) total[e] += to_float(x.at[e]);
    }
#pragma unroll
    for (int e = 0; e < kCount; ++e) call.sums[part * call.dim + d + e] = total[e];
  }
}

// result (size) = the sum of `parts` rows of sums (parts, size), in order: the same bits every time.
EOKIT_DEVICE void add_parts_block(const float* sums, int64_t parts, int64_t size, float* result) {
  const int64_t step = grid_blocks() * block_threads();
  for (int64_t i = block_index() * block_threads() + thread_index(); i < size; i += step) {
    float total = 0.0f;
    for (int64_t part = 0; part < parts; ++part) total += sums[part * size + i];
    result[i] = total;
  }
}

struct InvertIndex {
  const int64_t* index = nullptr;  // (B, K)
  int64_t batches = 0, count = 0, length = 0;
  int64_t* inverse = nullptr;  // (B, length), -1 before
};

EOKIT_DEVICE bool inside(const InvertIndex& call, int64_t i) {
  return call.index[i] >= 0 && call.index[i] < call.length;
}

EOKIT_DEVICE void invert_index_block(const InvertIndex& call) {
  const int64_t step = grid_blocks() * block_threads();
  for (int64_t i = block_index() * block_threads() + thread_index(); i < call.batches * call.count; i += step)
    if (inside(call, i)) call.inverse[i / call.count * call.length + call.index[i]] = i % call.count;
}

// Sets `wrong` where an index is out of range or where another one took its place.
EOKIT_DEVICE void check_inverse_block(const InvertIndex& call, int* wrong) {
  const int64_t step = grid_blocks() * block_threads();
  for (int64_t i = block_index() * block_threads() + thread_index(); i < call.batches * call.count; i += step)
    if (!inside(call, i) || call.inverse[i / call.count * call.length + call.index[i]] != i % call.count) *wrong = 1;
}

}  // namespace eokit

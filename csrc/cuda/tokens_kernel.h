// Rows of tokens that are picked, filled in and given their positions in one pass; the CUDA kernels of tokens.cu.
#pragma once

#include "../common/tokens.h"
#include "device.h"

namespace eokit {

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

// `lanes` threads, a power of two, write a row, kCount elements each at a time; the rows go round the grid.
template <class E, int kCount>
EOKIT_DEVICE void map_rows_block(const MapRows<E>& call, int lanes) {
  using Elements = Pack<E, kCount>;
  const int lane = thread_index() % lanes, row_in_block = thread_index() / lanes;
  const int64_t at_once = block_threads() / lanes;
  for (int64_t i = block_index() * at_once + row_in_block; i < call.batches * call.rows; i += grid_blocks() * at_once) {
    const int64_t b = i / call.rows, r = i % call.rows, from = call.map[i];
    const bool inside = from < call.sources;  // what EOKIT_CHECK=1 would refuse is filled, never read
    const E* row = from >= 0 && inside ? call.source + b * call.source_batch + from * call.source_row : call.fill;
    const int64_t place = call.by_output ? r : from;
    const E* position = call.positions != nullptr && place >= 0 && inside
                            ? call.positions + b * call.positions_batch + place % call.positions_rows * call.dim
                            : nullptr;
    for (int64_t d = static_cast<int64_t>(lane) * kCount; d < call.dim; d += static_cast<int64_t>(lanes) * kCount) {
      Elements x = row != nullptr ? packed<E, kCount>(row + d) : zeros<E, kCount>();
      if (position != nullptr) x = sum(x, packed<E, kCount>(position + d));
      *reinterpret_cast<Elements*>(call.out + i * call.dim + d) = x;
    }
  }
}

// sums (parts, D): each the sum of a part of fixed extent of the rows (count, D), of those whose map is negative.
//
// 1. A block takes one part of the rows and `lanes` 16-byte pieces of their columns: `lanes` threads read a row together,
//    block_threads() / lanes rows at once, kAhead times as many are on their way before the first of them is added.
// 2. The threads that share columns leave their sums in shared memory; one thread a column adds them in order.
// The sums of the parts are such rows again, all of which count: the same kernel adds them. Where a row is, which thread
// adds it and when follows from count, D and the dtype alone, not from alignment: the same bits always, no atomics.
template <class E>
struct SumRows {
  const E* rows = nullptr;
  const int64_t* map = nullptr;  // nullptr: every row counts
  int64_t count = 0, dim = 0;
  int64_t parts = 1, chunks = 1;  // of rows and of columns, a block each
  int lanes = 1;                  // threads that share a row, a power of two
  float* sums = nullptr;

  static constexpr int kPiece = 16 / sizeof(E);  // elements that a thread reads at once
};

// How the sum is split: as many lanes as a row has pieces, kMostLanes at most; blocks go by parts, then by chunks.
template <class E>
EOKIT_INLINE void split_columns(SumRows<E>& call, int most_lanes) {
  call.lanes = 1;
  while (call.lanes < most_lanes && call.lanes * call.kPiece < call.dim) call.lanes *= 2;
  const int64_t columns = static_cast<int64_t>(call.lanes) * call.kPiece;
  call.chunks = (call.dim + columns - 1) / columns;
}

// A piece of a row from column d on, zeros beyond its end; kAligned: in one access, D being a multiple of it.
template <bool kAligned, class E>
EOKIT_DEVICE Pack<E, SumRows<E>::kPiece> piece_of(const E* row, int64_t d, int64_t dim) {
  constexpr int kPiece = SumRows<E>::kPiece;
  if constexpr (kAligned) return packed<E, kPiece>(row + d);
  Pack<E, kPiece> x = zeros<E, kPiece>();
#pragma unroll
  for (int e = 0; e < kPiece; ++e)
    if (d + e < dim) x.at[e] = row[d + e];
  return x;
}

// shared: block_threads() * kPiece floats.
template <bool kAligned, class E>
EOKIT_DEVICE void sum_rows_block(const SumRows<E>& call, float* shared) {
  constexpr int kPiece = SumRows<E>::kPiece, kAhead = 4;
  const int64_t part = block_index() % call.parts, chunk = block_index() / call.parts;
  const int64_t end = (part + 1) * call.count / call.parts, at_once = block_threads() / call.lanes;
  const int columns = call.lanes * kPiece, lane = thread_index() % call.lanes, group = thread_index() / call.lanes;
  const int64_t d = chunk * columns + static_cast<int64_t>(lane) * kPiece;
  float total[kPiece] = {};
  for (int64_t i = part * call.count / call.parts + group; i < end; i += kAhead * at_once) {
    bool counts[kAhead];
    Pack<E, kPiece> ahead[kAhead];
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const int64_t row = i + n * at_once;
      counts[n] = row < end && d < call.dim && (call.map == nullptr || call.map[row] < 0);
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const int64_t row = i + n * at_once;
      ahead[n] = counts[n] ? piece_of<kAligned>(call.rows + row * call.dim, d, call.dim) : zeros<E, kPiece>();
    }
#pragma unroll
    for (int n = 0; n < kAhead; ++n)
#pragma unroll
      for (int e = 0; e < kPiece; ++e) total[e] += to_float(ahead[n].at[e]);
  }
#pragma unroll
  for (int e = 0; e < kPiece; ++e) shared[group * columns + lane * kPiece + e] = total[e];
  sync_block();
  for (int c = thread_index(); c < columns && chunk * columns + c < call.dim; c += block_threads()) {
    float sum = 0.0f;
    for (int g = 0; g < at_once; ++g) sum += shared[g * columns + c];
    call.sums[part * call.dim + chunk * columns + c] = sum;
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

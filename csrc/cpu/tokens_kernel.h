// Rows of tokens that are picked, filled in and given their positions in one pass; included once per instruction set.
#pragma once

#include <algorithm>

#include "packing.h"
#include "tokens.h"

namespace eokit {
namespace {

// Puts a register where it belongs: through the caches or past them.
template <class V, bool kStreams, class E>
EOKIT_INLINE void put(E* to, typename V::Reg r) {
  if constexpr (kStreams)
    V::stream(to, r);
  else
    V::store(to, r);
}

// to = a + b, where either may be missing.
template <class V, bool kStreams, class E>
EOKIT_INLINE void put_row(const E* a, const E* b, int64_t dim, E* to) {
  int64_t d = 0;
  if (a != nullptr && b != nullptr) {
    for (; d + V::kWidth <= dim; d += V::kWidth) put<V, kStreams>(to + d, V::add(V::load(a + d), V::load(b + d)));
    for (; d < dim; ++d) from_float(to_float(a[d]) + to_float(b[d]), to + d);
  } else if (const E* from = a != nullptr ? a : b) {
    for (; d + V::kWidth <= dim; d += V::kWidth) put<V, kStreams>(to + d, V::load(from + d));
    for (; d < dim; ++d) to[d] = from[d];
  } else {
    for (; d + V::kWidth <= dim; d += V::kWidth) put<V, kStreams>(to + d, V::zero());
    for (; d < dim; ++d) from_float(0.0f, to + d);
  }
}

// Asks memory for a row that will be wanted soon: the processor foresees it only where it follows the one before.
template <class E>
EOKIT_INLINE void ask_for_row(const E* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 64 / static_cast<int64_t>(sizeof(E))) __builtin_prefetch(row + d, 0, 2);
}

template <class V, class E>
void map_rows(const MapRows<E>& call, bool past_caches, int64_t begin, int64_t end) {
  constexpr int64_t kAhead = 4;
  const int64_t dim = call.dim;
  const bool streams = past_caches && are_lines(call.out, dim);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t b = i / call.rows, r = i % call.rows, from = call.map[i];
    const E* row = from < 0 ? call.fill : call.source + b * call.source_batch + from * call.source_row;
    if (i + kAhead < end && r + kAhead < call.rows && call.map[i + kAhead] >= 0)
      ask_for_row(call.source + b * call.source_batch + call.map[i + kAhead] * call.source_row, dim);
    E* to = call.out + i * dim;
    const int64_t place = (call.by_output ? r : from) % call.positions_rows;
    const E* position =
        call.positions && place >= 0 ? call.positions + b * call.positions_batch + place * dim : nullptr;
    if (streams)
      put_row<V, true>(row, position, dim, to);
    else
      put_row<V, false>(row, position, dim, to);
  }
  if (streams) V::finish_streams();
}

// to (D) += row
template <class V, class E>
EOKIT_INLINE void add_row(const E* row, int64_t dim, float* to) {
  int64_t d = 0;
  for (; d + V::kWidth <= dim; d += V::kWidth) V::store(to + d, V::add(V::load(to + d), V::load(row + d)));
  for (; d < dim; ++d) to[d] += to_float(row[d]);
}

template <class V, class E>
void sum_unmapped(const SumUnmapped<E>& call, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    if (call.map[i] >= 0) continue;
    add_row<V>(call.rows + i * call.dim, call.dim, call.sums);
  }
}

template <class V, class E>
void sum_mapped(const SumMapped<E>& call, int64_t begin, int64_t end) {
  for (int64_t l = begin; l < end; ++l) {
    float* sum = call.sums + l * call.dim;
    std::fill(sum, sum + call.dim, 0.0f);
    for (int64_t b = 0; b < call.batches; ++b) {
      const int64_t from = call.map[b * call.places + l];
      if (from >= 0) add_row<V>(call.rows + (b * call.rows_of_batch + from) * call.dim, call.dim, sum);
    }
  }
}

// to (D) += row, and also (D) += row
template <class V, class E>
EOKIT_INLINE void add_row_to_both(const E* row, int64_t dim, float* to, float* also) {
  int64_t d = 0;
  for (; d + V::kWidth <= dim; d += V::kWidth) {
    const typename V::Reg x = V::load(row + d);
    V::store(to + d, V::add(V::load(to + d), x));
    V::store(also + d, V::add(V::load(also + d), x));
  }
  for (; d < dim; ++d) to[d] += to_float(row[d]), also[d] += to_float(row[d]);
}

// Unmapped rows of a place are summed before they join those of other places: long sums drift.
template <class V, class E>
void sum_grid(const SumGrid<E>& call, int64_t begin, int64_t end) {
  const auto row_at = [&](int64_t b, int64_t l) { return call.rows + (b * call.places + l) * call.dim; };
  Scratch scratch(call.dim);
  float* unmapped = scratch.take(call.dim);
  for (int64_t l = begin; l < end; ++l) {
    float* sum = call.over_batch + l * call.dim;
    std::fill(sum, sum + call.dim, 0.0f);
    std::fill(unmapped, unmapped + call.dim, 0.0f);
    for (int64_t b = 0; b < call.batches; ++b) {
      const bool last = b + 1 == call.batches;
      if (!last || l + 1 < end) ask_for_row(last ? row_at(0, l + 1) : row_at(b + 1, l), call.dim);
      if (call.map[b * call.places + l] < 0)
        add_row_to_both<V>(row_at(b, l), call.dim, sum, unmapped);
      else
        add_row<V>(row_at(b, l), call.dim, sum);
    }
    add_row<V>(unmapped, call.dim, call.unmapped);
  }
}

template <class V, class E>
constexpr TokenKernelsOf<E> token_kernels_of() {
  return {map_rows<V, E>, sum_unmapped<V, E>, sum_mapped<V, E>, sum_grid<V, E>};
}

template <class V>
constexpr TokenKernels token_kernels() {
  return {token_kernels_of<V, float>(), token_kernels_of<V, BFloat16>(), token_kernels_of<V, Float16>()};
}

}  // namespace
}  // namespace eokit

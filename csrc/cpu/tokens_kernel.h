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

// So many rows, of those that are hidden up to twice as many, are summed before they join the others, and so many such
// sums before they join the total: long sums drift.
constexpr int64_t kFewRows = 32;

// Sums of rows (D), in levels; `few` is what rows are added to.
template <class V>
class LevelledSum {
 public:
  LevelledSum(Scratch& scratch, int64_t dim) : dim_(dim), few_(scratch.take(dim)), many_(scratch.take(dim)) {
    std::fill(few_, few_ + dim, 0.0f);
    std::fill(many_, many_ + dim, 0.0f);
  }

  float* few() const { return few_; }

  // Call it after kFewRows rows or so; total (D).
  void join(float* total) {
    move(few_, many_);
    if (++joined_ == kFewRows) finish(total);
  }

  // Call it after the last join.
  void finish(float* total) {
    if (joined_ > 0) move(many_, total);
    joined_ = 0;
  }

 private:
  // to (D) += from, which becomes zeros
  void move(float* from, float* to) const {
    add_row<V>(from, dim_, to);
    std::fill(from, from + dim_, 0.0f);
  }

  int64_t dim_, joined_ = 0;
  float *few_, *many_;
};

template <class V, class E>
void sum_unmapped(const SumUnmapped<E>& call, int64_t begin, int64_t end) {
  const int64_t dim = call.dim;
  Scratch scratch(2 * dim);
  LevelledSum<V> sum(scratch, dim);
  for (int64_t i = begin; i < end;) {
    for (int64_t rows = 0; i < end && rows < kFewRows; ++i)
      if (call.map[i] < 0) add_row<V>(call.rows + i * dim, dim, sum.few()), ++rows;
    sum.join(call.sums);
  }
  sum.finish(call.sums);
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

// to (D) += row, and copy (D) = row
template <class V, bool kStreams, class E>
EOKIT_INLINE void add_and_copy_row(const E* row, int64_t dim, float* to, E* copy) {
  int64_t d = 0;
  for (; d + V::kWidth <= dim; d += V::kWidth) {
    const typename V::Reg x = V::load(row + d);
    V::store(to + d, V::add(V::load(to + d), x));
    put<V, kStreams>(copy + d, x);
  }
  for (; d < dim; ++d) to[d] += to_float(row[d]), copy[d] = row[d];
}

// Place by place, as its sums then stay in the first-level cache.
template <class V, bool kScattered, bool kStreams, class E>
void token_gradients(const TokenGradients<E>& call, int64_t begin, int64_t end) {
  constexpr int64_t kAhead = 2;
  const int64_t dim = call.dim, batches = call.batches;
  const auto row_of = [&](int64_t b, int64_t l) { return call.map[b * call.places + l]; };
  const auto grad_at = [&](int64_t b, int64_t l) {
    return call.grad + (kScattered ? b * call.places + l : b * call.rows + row_of(b, l)) * dim;
  };
  const auto source_at = [&](int64_t b, int64_t l) {
    return call.source + (kScattered ? b * call.rows + row_of(b, l) : b * call.places + l) * dim;
  };
  Scratch scratch(4 * dim);
  LevelledSum<V> all(scratch, dim), hidden(scratch, dim);  // rows of a place; rows of places without a row
  int64_t hidden_rows = 0;
  for (int64_t l = begin; l < end; ++l) {
    float* positions = call.positions + l * dim;
    std::fill(positions, positions + dim, 0.0f);
    for (int64_t b = 0; b < batches;) {
      for (const int64_t last = std::min(b + kFewRows, batches); b < last; ++b) {
        const bool same = b + kAhead < batches;  // place, or the next one
        const int64_t next_b = same ? b + kAhead : (b + kAhead) % batches, next_l = same ? l : l + 1;
        if (next_l < end && (kScattered || row_of(next_b, next_l) >= 0)) ask_for_row(grad_at(next_b, next_l), dim);
        if (row_of(b, l) >= 0)
          add_and_copy_row<V, kStreams>(grad_at(b, l), dim, all.few(), source_at(b, l));
        else if constexpr (kScattered)
          add_row_to_both<V>(grad_at(b, l), dim, all.few(), hidden.few()), ++hidden_rows;
        else
          put_row<V, kStreams, E>(nullptr, nullptr, dim, source_at(b, l));
      }
      all.join(positions);
      if (hidden_rows >= kFewRows) hidden.join(call.fill), hidden_rows = 0;
    }
    all.finish(positions);
  }
  if (hidden_rows > 0) hidden.join(call.fill);
  if (kScattered) hidden.finish(call.fill);
  if constexpr (kStreams) V::finish_streams();
}

template <class V, bool kScattered, class E>
void gradients(const TokenGradients<E>& call, bool past_caches, int64_t begin, int64_t end) {
  if (past_caches && are_lines(call.source, call.dim))
    token_gradients<V, kScattered, true>(call, begin, end);
  else
    token_gradients<V, kScattered, false>(call, begin, end);
}

template <class V, class E>
constexpr TokenKernelsOf<E> token_kernels_of() {
  return {map_rows<V, E>, sum_unmapped<V, E>, gradients<V, false, E>, gradients<V, true, E>};
}

template <class V>
constexpr TokenKernels token_kernels() {
  return {token_kernels_of<V, float>(), token_kernels_of<V, BFloat16>(), token_kernels_of<V, Float16>()};
}

}  // namespace
}  // namespace eokit

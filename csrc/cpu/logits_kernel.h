// A row of a tile of logits is masked and summed while it is in L1; included once per instruction set.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../common/math.h"
#include "lanes.h"
#include "logits.h"

namespace eokit {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// exp(x), 0 where that is below 1e-37, as for -inf; NaN stays.
template <class V>
EOKIT_INLINE typename V::Reg exp_or_zero(typename V::Reg x) {
  const typename V::Reg e = exp<V>(x);
  return V::sub(e, V::where_positive(V::sub(V::set(-87.0f), x), e));
}

// `then` where the ids of the columns are that of the row, else `otherwise`; only the first `count` lanes are read.
template <class V>
EOKIT_INLINE typename V::Reg where_same(const int64_t* ids, int64_t id, int count, typename V::Reg then,
                                        typename V::Reg otherwise) {
  if (count == V::kWidth) return V::where_same(ids, id, then, otherwise);
  int64_t part[V::kWidth] = {};
  std::copy_n(ids, count, part);
  return V::where_same(part, id, then, otherwise);
}

// A register's worth of the scores of a row: -inf for no candidates, and behind the row.
template <class V>
EOKIT_INLINE typename V::Reg candidates(const Pairs& call, const float* scores, int64_t row, int64_t j, int count) {
  typename V::Reg found;
  if (count == V::kWidth) {
    found = V::load(scores + j);
  } else {
    float part[V::kWidth];
    std::fill_n(part, V::kWidth, kNothing);
    std::copy_n(scores + j, count, part);
    found = V::load(part);
  }
  if (call.block_rows == nullptr) return found;
  return where_same<V>(call.block_columns + j, call.block_rows[row], count, V::set(kNothing), found);
}

// Of those the positives, -inf for all others.
template <class V>
EOKIT_INLINE typename V::Reg positives(const Pairs& call, typename V::Reg found, int64_t row, int64_t j, int count) {
  return where_same<V>(call.group_columns + j, call.group_rows[row], count, found, V::set(kNothing));
}

template <class V>
EOKIT_INLINE float highest_lane(typename V::Reg r) {
  float part[V::kWidth];
  V::store(part, r);
  return *std::max_element(part, part + V::kWidth);
}

// Adds a row to its running sum; `at` gives a register's worth of its scores.
template <class V, class At>
EOKIT_INLINE void add_row(const RunningSums& running, int64_t row, int64_t columns, const At& at) {
  using Reg = typename V::Reg;
  Reg top = V::set(kNothing);
  along<V>(columns, [&](int64_t j, int n) { top = V::max(top, at(j, n)); });
  const float before = running.highest[row], risen = std::max(before, highest_lane<V>(top));
  const float shift = std::max(risen, std::numeric_limits<float>::lowest());  // -inf - lowest: still -inf
  Reg sum = V::zero();
  const Reg off = V::set(shift);
  along<V>(columns, [&](int64_t j, int n) { sum = V::add(sum, exp_or_zero<V>(V::sub(at(j, n), off))); });
  running.highest[row] = risen;
  running.total[row] = running.total[row] * std::exp(before - shift) + total<V>(sum);
}

template <class V>
void logits_add(const LogitsAdd& call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* scores = call.scores + row * call.columns;
    const auto every = [&](int64_t j, int n) { return candidates<V>(call, scores, row, j, n); };
    add_row<V>(call.candidates, row, call.columns, every);
    if (call.group_rows != nullptr)
      add_row<V>(call.positives, row, call.columns,
                 [&](int64_t j, int n) { return positives<V>(call, every(j, n), row, j, n); });
  }
}

template <class V>
void logits_slopes(const LogitsSlopes& call, int64_t begin, int64_t end) {
  using Reg = typename V::Reg;
  for (int64_t row = begin; row < end; ++row) {
    float* scores = call.scores + row * call.columns;
    const Reg sum = V::set(call.sums[row]), other = V::set(call.others[row]);
    along<V>(call.columns, [&](int64_t j, int n) {
      const Reg found = candidates<V>(call, scores, row, j, n);
      Reg slope = exp_or_zero<V>(V::sub(found, sum));
      if (call.group_rows != nullptr)
        slope = V::sub(slope, exp_or_zero<V>(V::sub(positives<V>(call, found, row, j, n), other)));
      store_lanes<V>(scores + j, slope, n);
    });
  }
}

template <class V>
constexpr LogitsKernels logits_kernels() {
  return {logits_add<V>, logits_slopes<V>};
}

}  // namespace
}  // namespace eokit

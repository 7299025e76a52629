// Going along a row of any length, a register at a time; included once per instruction set.
#pragma once

#include "packing.h"

namespace eokit {
namespace {

// Calls `work` with where a register's worth of a row begins and how many of its lanes count.
template <class V, class Work>
EOKIT_INLINE void along(int64_t length, const Work& work) {
  int64_t j = 0;
  for (; j + V::kWidth <= length; j += V::kWidth) work(j, V::kWidth);
  if (j < length) work(j, static_cast<int>(length - j));
}

// The first `count` lanes, zeros behind them.
template <class V, class E>
EOKIT_INLINE typename V::Reg load_lanes(const E* from, int count) {
  return count == V::kWidth ? V::load(from) : load_first<V>(from, count);
}
template <class V, class E>
EOKIT_INLINE void store_lanes(E* to, typename V::Reg r, int count) {
  if (count == V::kWidth)
    V::store(to, r);
  else
    store_first<V>(to, r, count);
}
template <class V>
EOKIT_INLINE typename V::Reg first_lanes(float x, int count) {
  if (count == V::kWidth) return V::set(x);
  float all[V::kWidth] = {};
  for (int i = 0; i < count; ++i) all[i] = x;
  return V::load(all);
}

// The sum of all lanes, in halves.
template <class V>
EOKIT_INLINE float total(typename V::Reg r) {
  float part[V::kWidth];
  V::store(part, r);
  for (int half = V::kWidth / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
  return part[0];
}

// result[r] = sum over d of a[r][d] b[r][d].
template <class V, class E>
void dot_rows(const Rows<E>& a, const Rows<E>& b, float* result) {
  for (int64_t r = 0; r < a.count; ++r) {
    const E *x = a.at(r), *y = b.at(r);
    typename V::Reg sum = V::zero();
    along<V>(a.dim, [&](int64_t d, int n) { sum = V::fma(load_lanes<V>(x + d, n), load_lanes<V>(y + d, n), sum); });
    result[r] = total<V>(sum);
  }
}

}  // namespace
}  // namespace eokit

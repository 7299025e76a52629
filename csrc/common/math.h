// Elementary functions over the vector types of csrc/cpu/vec_*.h.
#pragma once

#include "strided.h"

namespace eokit {

// exp(x) for x <= 88: x = n ln2 + r with |r| <= ln2 / 2, then 2^n times a polynomial in r whose largest relative error is
// 3.8e-9: 3.1e-9, the least that degree 6 allows (Remez, with 1 + r fixed), and the rounding of its coefficients. A float
// near 1.5 2^23 is a whole number, so adding that and taking it away rounds x / ln2 (never build with -ffast-math, which
// would leave both out). ln2 is held in two floats (Cody and Waite) so that r is exact to the last bit. Below -87 the result
// stays at 1.6e-38 instead of going through denormal numbers. NaN stays NaN (V::max returns its second argument then).
template <class V>
EOKIT_INLINE typename V::Reg exp(typename V::Reg x) {
  const typename V::Reg whole = V::set(12582912.0f);
  x = V::max(V::set(-87.0f), x);
  const typename V::Reg n = V::sub(V::fma(x, V::set(1.44269504088896341f), whole), whole);
  typename V::Reg r = V::fma(n, V::set(-0.693359375f), x);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  typename V::Reg p = V::set(1.3814613e-3f);
  p = V::fma(p, r, V::set(8.3687098e-3f));
  p = V::fma(p, r, V::set(4.1668384e-2f));
  p = V::fma(p, r, V::set(0.16666521f));
  p = V::fma(p, r, V::set(0.49999993f));
  p = V::fma(p, r, V::set(1.0f));
  p = V::fma(p, r, V::set(1.0f));
  return V::times_power_of_two(p, n);
}

// log(x) for normal x from 1e-38 to 1e38. Between powers of two the bits of a float grow about as its logarithm: that is
// off by at most 0.06, and two of Halley's steps, y + 2 (x - e^y) / (x + e^y), leave a twelfth of the cube of that, twice.
template <class V>
EOKIT_INLINE typename V::Reg log(typename V::Reg x) {
  typename V::Reg y = V::mul(V::sub(V::bits_as_integers(x), V::set(1065353216.0f)), V::set(8.2629582e-8f));
  for (int step = 0; step < 2; ++step) {
    const typename V::Reg e = exp<V>(y);
    y = V::fma(V::set(2.0f), V::div(V::sub(x, e), V::add(x, e)), y);
  }
  return y;
}

}  // namespace eokit

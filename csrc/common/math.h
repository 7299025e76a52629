// Elementary functions over the vector types of csrc/cpu/vec_*.h.
#pragma once

#include "strided.h"

namespace eokit {

// 2^x for x <= 127: 2^floor(x) times a polynomial in what is left, whose largest relative error is 1.3e-8: 2.0e-9, the least
// that degree 6 allows (Remez, with 1 at 0 fixed), and the rounding of its coefficients. Below -126 the result stays at
// 1.2e-38 instead of going through denormal numbers. NaN stays NaN (V::max returns its second argument then).
template <class V>
EOKIT_INLINE typename V::Reg exp2(typename V::Reg x) {
  x = V::max(V::set(-126.0f), x);
  const typename V::Reg r = V::fraction(x);
  typename V::Reg p = V::set(2.16129149e-4f);
  p = V::fma(p, r, V::set(1.2467847e-3f));
  p = V::fma(p, r, V::set(9.67545155e-3f));
  p = V::fma(p, r, V::set(5.54852821e-2f));
  p = V::fma(p, r, V::set(0.240229309f));
  p = V::fma(p, r, V::set(0.693147063f));
  p = V::fma(p, r, V::set(1.0f));
  return V::times_power_of_two(p, x);
}

constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

// exp(x) for x <= 88, by way of exp2: the rounding of x / ln2 adds a relative error of up to 7.3e-8 |x|, little more than
// that of x itself.
template <class V>
EOKIT_INLINE typename V::Reg exp(typename V::Reg x) {
  return exp2<V>(V::mul(x, V::set(kLog2E)));
}

// log(x) for normal x from 1e-38 to 1e38. Between powers of two the bits of a float grow about as its logarithm of base 2:
// their fraction y is off by at most 0.09 from that of x's own, x 2^-n, and two of Halley's steps,
// y + 2 / ln2 (x - 2^y) / (x + 2^y), leave a 25th of the cube of that, twice.
template <class V>
EOKIT_INLINE typename V::Reg log(typename V::Reg x) {
  const typename V::Reg bits = V::mul(V::sub(V::bits_as_integers(x), V::set(1065353216.0f)), V::set(1.0f / 8388608.0f));
  typename V::Reg y = V::fraction(bits);
  const typename V::Reg n = V::sub(bits, y);
  x = V::times_power_of_two(x, V::sub(V::zero(), n));
  for (int step = 0; step < 2; ++step) {
    const typename V::Reg two = exp2<V>(y);
    y = V::fma(V::set(2.0f * kLog2E), V::div(V::sub(x, two), V::add(x, two)), y);
  }
  return V::fma(n, V::set(kLn2), V::mul(y, V::set(kLn2)));
}

}  // namespace eokit

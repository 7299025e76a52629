// bfloat16 and float16 as they lie in memory, and their conversion one by one; the vector types convert many at once.
#pragma once

#include <cstdint>
#include <cstring>

#include "strided.h"

namespace eokit {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

EOKIT_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
EOKIT_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

EOKIT_INLINE float to_float(float x) { return x; }
EOKIT_INLINE float to_float(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

// The exponent moves from bias 15 to 127 by a product with 2^112, which makes normal numbers of subnormal ones too.
EOKIT_INLINE float to_float(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16, rest = static_cast<uint32_t>(x.bits & 0x7fffu);
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | (rest & 0x3ffu) << 13);  // infinity, NaN
  return float_of(sign | bits_of(float_of(rest << 13) * float_of(0x77800000u)));
}

EOKIT_INLINE void from_float(float x, float* to) { *to = x; }

// To the nearest, ties to even; a NaN stays one.
EOKIT_INLINE void from_float(float x, BFloat16* to) {
  const uint32_t bits = bits_of(x);
  to->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
EOKIT_INLINE void from_float(float x, Float16* to) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000u, rest = bits_of(x) & 0x7fffffffu;
  uint32_t half;
  if (rest > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (rest >= 0x477ff000u) {
    half = 0x7c00u;  // from 65520 on, infinity
  } else if (rest < 0x38800000u) {
    half = bits_of(float_of(rest) + 0.5f) - bits_of(0.5f);  // subnormal: the sum rounds at 2^-24
  } else {
    half = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
  }
  to->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace eokit

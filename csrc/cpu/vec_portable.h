// Four floats in the compiler's own vector type: SSE2 on x86-64, NEON on Arm, plain scalars elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/half.h"

namespace eokit {

struct VecPortable {
  typedef float Reg __attribute__((vector_size(16)));
  typedef int32_t Int __attribute__((vector_size(16)));

  static constexpr int kWidth = 4;
  static constexpr bool kFused = false;  // whether fma surely rounds once
  // Register block of the matrix product: kColumns vectors wide, rows(columns) high. 2 x 4 + 2 + 1 of 16 registers.
  static constexpr int kColumns = 2;
  static constexpr int rows(int /*columns*/) { return 4; }

  static constexpr int kFew = 0;  // too few lanes stay empty to be worth it (matmul.h)

  EOKIT_INLINE static Reg zero() { return Reg{0, 0, 0, 0}; }
  EOKIT_INLINE static Reg set(float x) { return Reg{x, x, x, x}; }
  EOKIT_INLINE static Reg load(const float* p) {
    Reg r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  EOKIT_INLINE static Reg load_first(const float* p, int count) {
    Reg r = zero();
    std::memcpy(&r, p, count * sizeof(float));
    return r;
  }
  EOKIT_INLINE static void store(float* p, Reg r) { std::memcpy(p, &r, sizeof r); }
  EOKIT_INLINE static void store_first(float* p, Reg r, int count) { std::memcpy(p, &r, count * sizeof(float)); }
  template <class Half>
  EOKIT_INLINE static Reg load(const Half* p) {
    return Reg{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
  }
  template <class Half>
  EOKIT_INLINE static void store(Half* p, Reg r) {
    for (int i = 0; i < kWidth; ++i) from_float(r[i], p + i);
  }
  template <class E>
  EOKIT_INLINE static void stream(E* p, Reg r) {  // through the caches: no instruction that all compilers have goes past
    store(p, r);
  }
  EOKIT_INLINE static void finish_streams() {}
  EOKIT_INLINE static Reg add(Reg a, Reg b) { return a + b; }
  EOKIT_INLINE static Reg sub(Reg a, Reg b) { return a - b; }
  EOKIT_INLINE static Reg mul(Reg a, Reg b) { return a * b; }
  EOKIT_INLINE static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
  EOKIT_INLINE static Reg max(Reg a, Reg b) { return a > b ? a : b; }  // b where either is NaN

  EOKIT_INLINE static bool any_above(Reg a, Reg b) {
    const Int above = a > b;
    return (above[0] | above[1] | above[2] | above[3]) != 0;
  }
  EOKIT_INLINE static Reg where_positive(Reg test, Reg a) { return test > zero() ? a : zero(); }  // 0 elsewhere
  EOKIT_INLINE static Reg where_same(const int64_t* ids, int64_t id, Reg then, Reg otherwise) {
    for (int i = 0; i < kWidth; ++i) otherwise[i] = ids[i] == id ? then[i] : otherwise[i];
    return otherwise;
  }

  EOKIT_INLINE static Reg div(Reg a, Reg b) { return a / b; }
  EOKIT_INLINE static Reg bits_as_integers(Reg a) {
    Int bits;
    std::memcpy(&bits, &a, sizeof bits);
    return __builtin_convertvector(bits, Reg);
  }
  EOKIT_INLINE static Reg fraction(Reg x) { return x - __builtin_convertvector(floor(x), Reg); }  // in 0..1
  // a * 2^floor(x) for x from -126 to below 128.
  EOKIT_INLINE static Reg times_power_of_two(Reg a, Reg x) {
    const Int exponent = (floor(x) + 127) << 23;
    Reg power;
    std::memcpy(&power, &exponent, sizeof power);
    return a * power;
  }

  // Words of any meaning: dst[c * dst_stride + r] = src[r * src_stride + c] for c < columns, 0 for rows <= r < kWidth.
  EOKIT_INLINE static void transpose(const float* src, int64_t src_stride, int rows, int columns, float* dst,
                                     int64_t dst_stride) {
    for (int c = 0; c < columns; ++c)
      for (int r = 0; r < kWidth; ++r) dst[c * dst_stride + r] = r < rows ? src[r * src_stride + c] : 0.0f;
  }

 private:
  EOKIT_INLINE static Int floor(Reg x) {
    const Int whole = __builtin_convertvector(x, Int);  // towards zero
    return whole + (__builtin_convertvector(whole, Reg) > x);  // true is -1
  }
};

}  // namespace eokit

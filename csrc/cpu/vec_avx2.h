// Eight floats in an AVX2 register, with fused multiply-add. Include only where `avx2,fma,f16c` are switched on.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../common/half.h"

namespace eokit {

struct VecAvx2 {
  typedef __m256 Reg;

  static constexpr int kWidth = 8;
  static constexpr bool kFused = true;  // whether fma rounds once
  // Register block of the matrix product: 6 x 2 sums + 2 columns + 1 broadcast of 16 registers.
  static constexpr int kColumns = 2;
  static constexpr int rows(int columns) { return columns == 1 ? 8 : 6; }

  static constexpr int kFew = 0;  // too few lanes stay empty to be worth it (matmul.h)

  EOKIT_INLINE static Reg zero() { return _mm256_setzero_ps(); }
  EOKIT_INLINE static Reg set(float x) { return _mm256_set1_ps(x); }
  EOKIT_INLINE static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  EOKIT_INLINE static Reg load_first(const float* p, int count) { return _mm256_maskload_ps(p, first(count)); }
  EOKIT_INLINE static void store(float* p, Reg r) { _mm256_storeu_ps(p, r); }
  EOKIT_INLINE static void store_first(float* p, Reg r, int count) { _mm256_maskstore_ps(p, first(count), r); }
  EOKIT_INLINE static Reg load(const BFloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  EOKIT_INLINE static Reg load(const Float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  template <class Half>
  EOKIT_INLINE static void store(Half* p, Reg r) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves(r, p));
  }
  // Past the caches, to where a register's worth is aligned; `finish_streams` comes after the last.
  EOKIT_INLINE static void stream(float* p, Reg r) { _mm256_stream_ps(p, r); }
  template <class Half>
  EOKIT_INLINE static void stream(Half* p, Reg r) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), halves(r, p));
  }
  EOKIT_INLINE static void finish_streams() { _mm_sfence(); }
  EOKIT_INLINE static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  EOKIT_INLINE static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  EOKIT_INLINE static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  EOKIT_INLINE static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  EOKIT_INLINE static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }  // b where either is NaN
  EOKIT_INLINE static bool any_above(Reg a, Reg b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
  EOKIT_INLINE static Reg where_positive(Reg test, Reg a) {  // 0 elsewhere
    return _mm256_and_ps(_mm256_cmp_ps(test, zero(), _CMP_GT_OQ), a);
  }
  EOKIT_INLINE static Reg where_same(const int64_t* ids, int64_t id, Reg then, Reg otherwise) {
    const __m256i one = _mm256_set1_epi64x(id);
    const __m256i* four = reinterpret_cast<const __m256i*>(ids);
    const __m256i low = _mm256_cmpeq_epi64(_mm256_loadu_si256(four), one);
    const __m256i high = _mm256_cmpeq_epi64(_mm256_loadu_si256(four + 1), one);
    const __m256 halves = _mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), 0x88);  // 0145 2367
    const __m256i ordered = _mm256_permute4x64_epi64(_mm256_castps_si256(halves), 0xD8);
    return _mm256_blendv_ps(otherwise, then, _mm256_castsi256_ps(ordered));
  }

  EOKIT_INLINE static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  EOKIT_INLINE static Reg bits_as_integers(Reg a) { return _mm256_cvtepi32_ps(_mm256_castps_si256(a)); }
  EOKIT_INLINE static Reg fraction(Reg x) { return _mm256_sub_ps(x, _mm256_floor_ps(x)); }  // in 0..1
  // a * 2^floor(x) for x from -126 to below 128.
  EOKIT_INLINE static Reg times_power_of_two(Reg a, Reg x) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_floor_ps(x));
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
  }

  // Words of any meaning: dst[c * dst_stride + r] = src[r * src_stride + c] for c < columns, 0 for rows <= r < kWidth.
  EOKIT_INLINE static void transpose(const float* src, int64_t src_stride, int rows, int columns, float* dst,
                                     int64_t dst_stride) {
    const __m256i mask = first(columns);
    Reg a[8], b[8];
    for (int r = 0; r < 8; ++r)
      a[r] = r < rows ? _mm256_maskload_ps(src + r * src_stride, mask) : zero();
    for (int i = 0; i < 4; ++i) {  // pairs of rows
      b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {  // fours: a[4i + j] holds columns j and j + 4 of rows 4i..4i+3
      a[4 * i + 0] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
      a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xEE);
      a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
      a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xEE);
    }
    for (int j = 0; j < 4; ++j) {
      if (j < columns) store(dst + j * dst_stride, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
      if (j + 4 < columns) store(dst + (j + 4) * dst_stride, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
    }
  }

 private:
  EOKIT_INLINE static __m128i halves(Reg r, const BFloat16*) {  // to the nearest, ties to even; NaN stays
    const __m256i bits = _mm256_castps_si256(r);
    const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(r, r, _CMP_UNORD_Q));
    const __m256i kept = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7fc0), nan);
    const __m256i packed = _mm256_packus_epi32(kept, kept);  // within each half: 0..3 0..3 | 4..7 4..7
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
  }
  EOKIT_INLINE static __m128i halves(Reg r, const Float16*) { return _mm256_cvtps_ph(r, _MM_FROUND_TO_NEAREST_INT); }
  EOKIT_INLINE static __m256i first(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace eokit

// Sixteen floats in an AVX-512 register. Include only where `avx512f,avx512dq` are switched on.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../common/half.h"

namespace eokit {

struct VecAvx512 {
  typedef __m512 Reg;

  static constexpr int kWidth = 16;
  static constexpr bool kFused = true;  // whether fma rounds once
  // Register block of the matrix product. Two FMA units of latency 4 need 8 sums in flight; of 32 registers the
  // largest block takes 24 for sums, the rest hold a row of columns and a broadcast.
  static constexpr int kColumns = 4;
  static constexpr int rows(int columns) { return columns <= 2 ? 12 : columns == 3 ? 8 : 6; }

  // Up to so many columns of a product behind the last full register are not worth one of their own (matmul.h).
  static constexpr int kFew = 4;

  EOKIT_INLINE static Reg zero() { return _mm512_setzero_ps(); }
  EOKIT_INLINE static Reg set(float x) { return _mm512_set1_ps(x); }
  EOKIT_INLINE static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  EOKIT_INLINE static Reg load_first(const float* p, int count) { return _mm512_maskz_loadu_ps(first(count), p); }
  EOKIT_INLINE static void store(float* p, Reg r) { _mm512_storeu_ps(p, r); }
  EOKIT_INLINE static void store_first(float* p, Reg r, int count) { _mm512_mask_storeu_ps(p, first(count), r); }
  EOKIT_INLINE static Reg load(const BFloat16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  EOKIT_INLINE static Reg load(const Float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  template <class Half>
  EOKIT_INLINE static void store(Half* p, Reg r) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves(r, p));
  }
  // Past the caches, to where a register's worth is aligned; `finish_streams` comes after the last.
  EOKIT_INLINE static void stream(float* p, Reg r) { _mm512_stream_ps(p, r); }
  template <class Half>
  EOKIT_INLINE static void stream(Half* p, Reg r) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), halves(r, p));
  }
  EOKIT_INLINE static void finish_streams() { _mm_sfence(); }
  EOKIT_INLINE static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  EOKIT_INLINE static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  EOKIT_INLINE static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  EOKIT_INLINE static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  EOKIT_INLINE static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }  // b where either is NaN
  EOKIT_INLINE static bool any_above(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
  EOKIT_INLINE static Reg where_positive(Reg test, Reg a) {  // 0 elsewhere
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, zero(), _CMP_GT_OQ), a);
  }
  EOKIT_INLINE static Reg where_same(const int64_t* ids, int64_t id, Reg then, Reg otherwise) {
    const __m512i one = _mm512_set1_epi64(id);
    const unsigned low = _mm512_cmpeq_epi64_mask(_mm512_loadu_si512(ids), one);
    const unsigned high = _mm512_cmpeq_epi64_mask(_mm512_loadu_si512(ids + 8), one);
    return _mm512_mask_mov_ps(otherwise, static_cast<__mmask16>(low | high << 8), then);
  }
  EOKIT_INLINE static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  EOKIT_INLINE static Reg bits_as_integers(Reg a) { return _mm512_cvtepi32_ps(_mm512_castps_si512(a)); }
  EOKIT_INLINE static Reg fraction(Reg x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  EOKIT_INLINE static Reg times_power_of_two(Reg a, Reg x) { return _mm512_scalef_ps(a, x); }

  // to[m * stride + n] = the sum of all lanes of x[m][n] for m < rows, zeros behind the four of a row.
  EOKIT_INLINE static void store_sums(const Reg (&x)[4][4], float* to, int64_t stride, int rows) {
    Reg sum[4];  // of x[m]: in every quarter four sums over the lanes of that quarter
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) {
      const Reg low = add(_mm512_unpacklo_ps(x[m][0], x[m][1]), _mm512_unpackhi_ps(x[m][0], x[m][1]));
      const Reg high = add(_mm512_unpacklo_ps(x[m][2], x[m][3]), _mm512_unpackhi_ps(x[m][2], x[m][3]));
      sum[m] = add(_mm512_shuffle_ps(low, high, 0x44), _mm512_shuffle_ps(low, high, 0xEE));
    }
    const Reg first = add(_mm512_shuffle_f32x4(sum[0], sum[1], 0x44), _mm512_shuffle_f32x4(sum[0], sum[1], 0xEE));
    const Reg last = add(_mm512_shuffle_f32x4(sum[2], sum[3], 0x44), _mm512_shuffle_f32x4(sum[2], sum[3], 0xEE));
    const Reg all = add(_mm512_shuffle_f32x4(first, last, 0x88), _mm512_shuffle_f32x4(first, last, 0xDD));
    const __m128 quarters[4] = {_mm512_castps512_ps128(all), _mm512_extractf32x4_ps(all, 1), _mm512_extractf32x4_ps(all, 2),
                                _mm512_extractf32x4_ps(all, 3)};
    for (int m = 0; m < rows; ++m) store(to + m * stride, _mm512_zextps128_ps512(quarters[m]));
  }

  // Words of any meaning: dst[c * dst_stride + r] = src[r * src_stride + c] for c < columns, 0 for rows <= r < kWidth.
  EOKIT_INLINE static void transpose(const float* src, int64_t src_stride, int rows, int columns, float* dst,
                                     int64_t dst_stride) {
    const __mmask16 mask = first(columns);
    Reg a[16], b[16];
    for (int r = 0; r < 16; ++r)
      a[r] = r < rows ? _mm512_maskz_loadu_ps(mask, src + r * src_stride) : zero();
    for (int i = 0; i < 8; ++i) {  // pairs of rows
      b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {  // fours: a[4i + j] holds columns j, j + 4, j + 8, j + 12 of rows 4i..4i+3
      a[4 * i + 0] = _mm512_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
      a[4 * i + 1] = _mm512_shuffle_ps(b[4 * i], b[4 * i + 2], 0xEE);
      a[4 * i + 2] = _mm512_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
      a[4 * i + 3] = _mm512_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xEE);
    }
    for (int j = 0; j < 4; ++j) {  // quarters of the four groups of rows, column by column
      const Reg low01 = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x44), high01 = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xEE);
      const Reg low23 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x44);
      const Reg high23 = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xEE);
      if (j < columns) store(dst + j * dst_stride, _mm512_shuffle_f32x4(low01, low23, 0x88));
      if (j + 4 < columns) store(dst + (j + 4) * dst_stride, _mm512_shuffle_f32x4(low01, low23, 0xDD));
      if (j + 8 < columns) store(dst + (j + 8) * dst_stride, _mm512_shuffle_f32x4(high01, high23, 0x88));
      if (j + 12 < columns) store(dst + (j + 12) * dst_stride, _mm512_shuffle_f32x4(high01, high23, 0xDD));
    }
  }

 private:
  EOKIT_INLINE static __m256i halves(Reg r, const BFloat16*) {  // to the nearest, ties to even; NaN stays
    const __m512i bits = _mm512_castps_si512(r);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(r, r, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(kept);
  }
  EOKIT_INLINE static __m256i halves(Reg r, const Float16*) { return _mm512_cvtps_ph(r, _MM_FROUND_TO_NEAREST_INT); }
  EOKIT_INLINE static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
};

}  // namespace eokit

// Operands of attention as pairs of bfloat16, for CPUs that multiply and add two of them a lane in one instruction.
//
// A word holds the numbers 2i (low half) and 2i + 1 of the depth. The products sum in float; P and dS are rounded to
// bfloat16 on the way into theirs, as torch's own attention does it.
#pragma once

#include "operands.h"
#include "vec_avx512.h"

namespace eokit {
namespace {

// V whose product takes words of two bfloat16: c + a.low * b.low + a.high * b.high.
struct DotProducts : VecAvx512 {
  EOKIT_INLINE static Reg fma(Reg a, Reg b, Reg c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

struct Bfloat16Pairs {
  typedef VecAvx512 V;
  typedef DotProducts Arithmetic;
  static constexpr int64_t kDepth = 2;
  static constexpr bool kRowsAreLanes = false;

  static int64_t row_words(int64_t dim) { return round_up((dim + 1) / 2, V::kWidth); }

  static void pack_rows(const Rows<const BFloat16>& rows, float* dst) {
    const int64_t stride = row_words(rows.dim);
    for (int64_t r = 0; r < rows.count; ++r, dst += stride) {
      const BFloat16* from = rows.at(r);
      auto* to = reinterpret_cast<BFloat16*>(dst);
      for (int64_t d = 0; d < rows.dim; d += 32) _mm512_storeu_si512(to + d, load(from, d, rows.dim));
    }
  }

  static void pack_lanes(const Rows<const BFloat16>& rows, float* dst) {
    const int64_t width = round_up(rows.dim, V::kWidth);
    for (int64_t r = 0; r < rows.count; r += 2) {
      const bool both = r + 1 < rows.count;
      const BFloat16 *low = rows.at(r), *high = both ? rows.at(r + 1) : low;
      for (int64_t d = 0; d < rows.dim; d += V::kWidth)
        V::store(dst + r / 2 * width + d, join(half(low, d, rows.dim), half(high, d, both ? rows.dim : d)));
    }
  }

  EOKIT_INLINE static void put_keys(float* keys, const V::Reg* p) { V::store(keys, join(round(p[0]), round(p[1]))); }

  EOKIT_INLINE static void put_queries(float* row, int64_t first, V::Reg p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(reinterpret_cast<BFloat16*>(row) + first), round(p));
  }

 private:
  EOKIT_INLINE static __m256i round(V::Reg p) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(p)); }

  EOKIT_INLINE static V::Reg join(__m256i low, __m256i high) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(low), shifted));
  }

  // Elements d..d + 32, d..d + 16 of a row of `dim`, zeros beyond it.
  EOKIT_INLINE static __m512i load(const BFloat16* row, int64_t d, int64_t dim) {
    const int64_t left = dim - d;
    return _mm512_maskz_loadu_epi16(left < 32 ? (__mmask32{1} << left) - 1 : ~__mmask32{0}, row + d);
  }
  EOKIT_INLINE static __m256i half(const BFloat16* row, int64_t d, int64_t dim) {
    const int64_t left = dim - d;
    return _mm256_maskz_loadu_epi16(static_cast<__mmask16>(left < 16 ? (1u << left) - 1u : 0xffffu), row + d);
  }
};

}  // namespace
}  // namespace eokit

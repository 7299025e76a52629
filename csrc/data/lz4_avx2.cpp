// The LZ4 decoder for CPUs with avx2, for its byte shuffle; only called where cpuid says so.
// Everything that is shared with other translation units comes before the switch.
#include <algorithm>
#include <cstring>

#include "lz4.h"

#ifdef EOKIT_X86
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#include "lz4_kernel.h"

namespace eokit {
namespace {

// of[d][i] = i mod d: where byte i of a match d bytes back lies in the d bytes before it; of[16] is for d >= 16.
struct Periods {
  alignas(16) uint8_t of[17][32] = {};
  constexpr Periods() {
    for (int distance = 1; distance <= 16; ++distance)
      for (int i = 0; i < 32; ++i) of[distance][i] = static_cast<uint8_t>(i % distance);
  }
};
constexpr Periods kPeriods;

// Bytes 0..15 and 16..31 of the match `distance` back from `to`; no branch.
struct Avx2Match {
  static void first16(uint8_t* to, size_t distance) { copy(to, to - distance, period(distance)); }

  static void second16(uint8_t* to, size_t distance) {
    copy(to + 16, to - distance + (distance < 16 ? 0 : 16), period(distance) + 16);
  }

 private:
  static const uint8_t* period(size_t distance) { return kPeriods.of[distance < 16 ? distance : 16]; }

  static void copy(uint8_t* to, const uint8_t* from, const uint8_t* order) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    const __m128i index = _mm_load_si128(reinterpret_cast<const __m128i*>(order));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(bytes, index));
  }
};

}  // namespace

const Lz4Decoder kLz4Avx2 = decode_lz4<Avx2Match>;
}  // namespace eokit

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif

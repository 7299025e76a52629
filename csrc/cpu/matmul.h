// Small matrix products whose operands sit in L1 and L2, register-blocked; the arithmetic of attention.
#pragma once

#include <cstdint>

#include "../common/strided.h"

namespace eokit {

// Whether A is stored with its rows along memory (A(m, k) = a[m * lda + k]) or across it (A(m, k) = a[k * lda + m]).
enum class Layout { kRows, kColumns };

// C(m, n) = sum_k A(m, k) B(k, n), or C += ... if `accumulate`; lanes run along n, A is broadcast.
struct Product {
  int64_t rows, vectors, depth;  // of A: rows x depth; of B: depth x (vectors * V::kWidth)
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  bool accumulate;
};

// A product gives every step the chance to ask memory for something (ahead.h); this asks for nothing.
struct NothingAhead {
  struct Share {
    EOKIT_INLINE void ask(int64_t) const {}
  };
  EOKIT_INLINE Share share(int64_t) const { return {}; }
};

// One block of R rows and N vectors held in registers over the whole depth. Sums start from zero and meet C at the end: a
// running total that is large would round every product on its way in, and long sums over blocks of keys would drift.
// kLda is lda, or 0 if that is only known at run time.
template <class V, Layout L, int R, int N, int kLda, class Share>
void multiply_block(int64_t depth, const float* __restrict a, int64_t any_lda, const float* __restrict b, int64_t ldb,
                    float* __restrict c, int64_t ldc, bool accumulate, const Share& next) {
  using Reg = typename V::Reg;
  const int64_t lda = kLda != 0 ? kLda : any_lda;
  Reg sum[R][N];
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sum[m][n] = V::zero();
  for (int64_t k = 0; k < depth; ++k) {
    next.ask(k);
    Reg column[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) column[n] = V::load(b + k * ldb + n * V::kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m) {
      const Reg factor = V::set(L == Layout::kRows ? a[m * lda + k] : a[k * lda + m]);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[m][n] = V::fma(factor, column[n], sum[m][n]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      float* to = c + m * ldc + n * V::kWidth;
      V::store(to, accumulate ? V::add(V::load(to), sum[m][n]) : sum[m][n]);
    }
}

// Calls multiply_block with R = `rows`, which is only known at run time.
template <class V, Layout L, int N, int kLda, int R, class A>
EOKIT_INLINE void multiply_rows(int64_t rows, const Product& p, const float* a, const float* b, float* c, A& ahead) {
  if constexpr (R > 0) {
    if (rows == R)
      multiply_block<V, L, R, N, kLda>(p.depth, a, p.lda, b, p.ldb, c, p.ldc, p.accumulate, ahead.share(p.depth));
    else
      multiply_rows<V, L, N, kLda, R - 1>(rows, p, a, b, c, ahead);
  }
}

// A strip of N vectors: rows are split into blocks of nearly equal height, so that no block is left with one row.
template <class V, Layout L, int N, int kLda, class A>
void multiply_strip(const Product& p, const float* b, float* c, A& ahead) {
  constexpr int kRows = V::rows(N);
  const int64_t blocks = (p.rows + kRows - 1) / kRows;
  int64_t row = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t height = (p.rows - row + blocks - block - 1) / (blocks - block);
    const float* a = L == Layout::kRows ? p.a + row * p.lda : p.a + row;
    multiply_rows<V, L, N, kLda, kRows>(height, p, a, b, c + row * p.ldc, ahead);
    row += height;
  }
}

// The compiler is told the usual strides between rows: it then needs one pointer for all of them, where one for each is
// more than there are registers.
template <class V, Layout L, int N, class A>
EOKIT_INLINE void multiply_vectors(int64_t vectors, const Product& p, const float* b, float* c, A& ahead) {
  if constexpr (N > 0) {
    if (vectors < N)
      multiply_vectors<V, L, N - 1>(vectors, p, b, c, ahead);
    else if constexpr (L == Layout::kColumns)
      multiply_strip<V, L, N, 0>(p, b, c, ahead);
    else if (p.lda == 32)
      multiply_strip<V, L, N, 32>(p, b, c, ahead);
    else if (p.lda == 64)
      multiply_strip<V, L, N, 64>(p, b, c, ahead);
    else
      multiply_strip<V, L, N, 0>(p, b, c, ahead);
  }
}

template <class V, Layout L, class A>
void multiply(const Product& p, A& ahead) {
  const int64_t strips = (p.vectors + V::kColumns - 1) / V::kColumns;
  int64_t vector = 0;
  for (int64_t strip = 0; strip < strips; ++strip) {
    const int64_t width = (p.vectors - vector + strips - strip - 1) / (strips - strip);
    multiply_vectors<V, L, V::kColumns>(width, p, p.b + vector * V::kWidth, p.c + vector * V::kWidth, ahead);
    vector += width;
  }
}
template <class V, Layout L>
void multiply(const Product& p) {
  NothingAhead nothing;
  multiply<V, L>(p, nothing);
}

}  // namespace eokit

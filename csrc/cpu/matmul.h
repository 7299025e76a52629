// Small matrix products whose operands sit in L1 and L2, register-blocked; the arithmetic of attention.
#pragma once

#include <cstdint>

#include "../common/strided.h"

namespace eokit {

// Whether A is stored with its rows along memory (A(m, k) = a[m * lda + k]) or across it (A(m, k) = a[k * lda + m]).
enum class Layout { kRows, kColumns };

// C(m, n) = sum_k A(m, k) B(k, n); lanes run along n, A is broadcast.
struct Product {
  int64_t rows, vectors, depth;  // of A: rows x depth; of B: depth x (vectors * V::kWidth)
  const float* a;
  int64_t lda;
  const float* b;
  int64_t ldb;
};

// Where the sums of a block go: here into working memory; Results (packing.h) has the same functions.
template <class V>
struct Matrix {
  static constexpr bool kWorkingMemory = true;

  float* data;
  int64_t stride;
  bool accumulate;

  // What begins `row` rows and `vector` registers further.
  EOKIT_INLINE Matrix from(int64_t row, int64_t vector) const {
    return {data + row * stride + vector * V::kWidth, stride, accumulate};
  }
  template <int R, int N>
  EOKIT_INLINE void put(const typename V::Reg (&block)[R][N]) const {
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m)
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        float* to = data + m * stride + n * V::kWidth;
        V::store(to, accumulate ? V::add(V::load(to), block[m][n]) : block[m][n]);
      }
  }
};

// The same for scores: on its way every column's largest is found, highest[n] among them.
template <class V>
struct Scores {
  static constexpr bool kWorkingMemory = true;

  float* data;
  int64_t stride;
  float* highest;

  EOKIT_INLINE Scores from(int64_t row, int64_t vector) const {
    return {data + row * stride + vector * V::kWidth, stride, highest + vector * V::kWidth};
  }
  template <int R, int N>
  EOKIT_INLINE void put(const typename V::Reg (&block)[R][N]) const {
    Matrix<V>{data, stride, false}.put(block);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      typename V::Reg most = V::load(highest + n * V::kWidth);
#pragma GCC unroll 16
      for (int m = 0; m < R; ++m) most = V::max(most, block[m][n]);
      V::store(highest + n * V::kWidth, most);
    }
  }
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
// kLda is lda, or 0 if that is only known at run time: every third row of A then has a pointer, from which lda and twice lda
// reach the two behind it. With a pointer for each row, as the compiler would have it, the processor runs out of registers.
template <class V, Layout L, int R, int N, int kLda, class To, class Share>
void multiply_block(int64_t depth, const float* __restrict a, int64_t any_lda, const float* __restrict b, int64_t ldb,
                    const To& to, const Share& next) {
  using Reg = typename V::Reg;
  constexpr bool kPointers = L == Layout::kRows && kLda == 0;
  const int64_t lda = kLda != 0 ? kLda : any_lda;
  const float* every_third[(R + 2) / 3];
#pragma GCC unroll 16
  for (int i = 0; i < (R + 2) / 3; ++i) every_third[i] = kPointers ? a + 3 * i * lda : nullptr;
  Reg sum[R][N];
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m)
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sum[m][n] = V::zero();
  for (int64_t k = 0; k < depth; ++k) {
    next.ask(k);
    if constexpr (kPointers)
#pragma GCC unroll 16
      for (const float*& row : every_third) asm("" : "+r"(row));  // hides that one can be reached from another
    Reg column[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) column[n] = V::load(b + k * ldb + n * V::kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m) {
      const Reg factor = V::set(kPointers              ? every_third[m / 3][m % 3 * lda]
                                : L == Layout::kRows ? a[m * lda + k]
                                                     : a[k * lda + m]);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[m][n] = V::fma(factor, column[n], sum[m][n]);
    }
    if constexpr (kPointers)
#pragma GCC unroll 16
      for (const float*& row : every_third) ++row;
  }
  to.put(sum);
}

// Calls multiply_block with R = `rows`, which is only known at run time.
template <class V, Layout L, int N, int kLda, int R, class To, class A>
EOKIT_INLINE void multiply_rows(int64_t rows, const Product& p, const float* a, const float* b, const To& to, A& ahead) {
  if constexpr (R > 0) {
    if (rows == R)
      multiply_block<V, L, R, N, kLda>(p.depth, a, p.lda, b, p.ldb, to, ahead.share(p.depth));
    else
      multiply_rows<V, L, N, kLda, R - 1>(rows, p, a, b, to, ahead);
  }
}

// A strip of N vectors: rows are split into blocks of nearly equal height, so that no block is left with one row.
template <class V, Layout L, int N, int kLda, class To, class A>
void multiply_strip(const Product& p, const float* b, const To& to, A& ahead) {
  constexpr int kRows = V::rows(N);
  const int64_t blocks = (p.rows + kRows - 1) / kRows;
  int64_t row = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t height = (p.rows - row + blocks - block - 1) / (blocks - block);
    const float* a = L == Layout::kRows ? p.a + row * p.lda : p.a + row;
    multiply_rows<V, L, N, kLda, kRows>(height, p, a, b, to.from(row, 0), ahead);
    row += height;
  }
}

// The compiler is told the usual strides between rows, of heads of 32 and 64 features: it then needs one pointer for all of
// them. Columns need none, and rows whose products are Results lie a panel apart: they take the general way.
template <class V, Layout L, int N, class To, class A>
EOKIT_INLINE void multiply_vectors(int64_t vectors, const Product& p, const float* b, const To& to, A& ahead) {
  if constexpr (N > 0) {
    if (vectors < N)
      multiply_vectors<V, L, N - 1>(vectors, p, b, to, ahead);
    else if constexpr (L == Layout::kColumns || !To::kWorkingMemory)
      multiply_strip<V, L, N, 0>(p, b, to, ahead);
    else if (p.lda == 32)
      multiply_strip<V, L, N, 32>(p, b, to, ahead);
    else if (p.lda == 64)
      multiply_strip<V, L, N, 64>(p, b, to, ahead);
    else
      multiply_strip<V, L, N, 0>(p, b, to, ahead);
  }
}

template <class V, Layout L, class To, class A>
void multiply(const Product& p, const To& to, A& ahead) {
  const int64_t strips = (p.vectors + V::kColumns - 1) / V::kColumns;
  int64_t vector = 0;
  for (int64_t strip = 0; strip < strips; ++strip) {
    const int64_t width = (p.vectors - vector + strips - strip - 1) / (strips - strip);
    multiply_vectors<V, L, V::kColumns>(width, p, p.b + vector * V::kWidth, to.from(0, vector), ahead);
    vector += width;
  }
}
template <class V, Layout L, class To>
void multiply(const Product& p, const To& to) {
  NothingAhead nothing;
  multiply<V, L>(p, to, nothing);
}

// Of `columns`, how many multiply_few is to make: those behind the last full register, if they are few.
template <class V>
EOKIT_INLINE int64_t few_of(int64_t columns) {
  const int64_t rest = columns % V::kWidth;
  return rest <= V::kFew ? rest : 0;
}

// C(m, n) = sum_k A(m, k) B(n, k) for n < V::kFew, zeros up to the width of a register: lanes run along k and are summed
// in the end, so that none is left unused. `depth`, a multiple of that width, is also how far apart rows of B are.
template <class V, class A>
void multiply_few(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b, float* c, int64_t ldc,
                  A& ahead) {
  using Reg = typename V::Reg;
  constexpr int kFew = V::kFew;
  static_assert(kFew == 4);  // as store_sums has it
  for (int64_t row = 0; row < rows; row += kFew) {
    const int height = static_cast<int>(rows - row < kFew ? rows - row : kFew);
    const float* from[kFew];  // the last row again where there are no more
    for (int m = 0; m < kFew; ++m) from[m] = a + (row + (m < height ? m : height - 1)) * lda;
    Reg sum[kFew][kFew];
#pragma GCC unroll 4
    for (int m = 0; m < kFew; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < kFew; ++n) sum[m][n] = V::zero();
    const auto next = ahead.share(depth / V::kWidth);
    for (int64_t k = 0; k < depth; k += V::kWidth) {
      next.ask(k / V::kWidth);
      Reg column[kFew];
#pragma GCC unroll 4
      for (int n = 0; n < kFew; ++n) column[n] = V::load(b + n * depth + k);
#pragma GCC unroll 4
      for (int m = 0; m < kFew; ++m) {
        const Reg factor = V::load(from[m] + k);
#pragma GCC unroll 4
        for (int n = 0; n < kFew; ++n) sum[m][n] = V::fma(factor, column[n], sum[m][n]);
      }
    }
    V::store_sums(sum, c + row * ldc, ldc, height);
  }
}

}  // namespace eokit

// Working memory of the kernels, and rows that go there and come back; included once per instruction set.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "../common/half.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace eokit {
namespace {

EOKIT_INLINE int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Aligned working memory of one thread, handed out in pieces. Plain malloc: no C++ library code is compiled in here.
// Under AddressSanitizer nothing but the pieces themselves may be touched.
class Scratch {
 public:
  explicit Scratch(int64_t floats)
      : bytes_(round_up(floats * 4 + kPieces * 2 * kLine, kLine)),
        base_(static_cast<float*>(std::aligned_alloc(kLine, bytes_))),
        next_(base_) {
    if (base_ == nullptr) std::abort();
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(base_, bytes_);
#endif
  }
  ~Scratch() {
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(base_, bytes_);
#endif
    std::free(base_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += round_up(floats, kLine / 4);
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(piece, floats * 4);
    next_ += kLine / 4;
#endif
    return piece;
  }

 private:
  static constexpr int64_t kLine = 64, kPieces = 32;

  int64_t bytes_;
  float* base_;
  float* next_;
};

// Rows of one item in memory, and which of them: `index` (null: 0, 1, 2 ...) says where each of `count` is.
template <class E>
struct Rows {
  E* data;
  int64_t stride;  // from a row to the next
  int64_t count, dim;
  const int64_t* index = nullptr;
  int64_t next = 0;  // from a row to that of the next head

  EOKIT_INLINE E* at(int64_t row) const { return data + (index ? index[row] : row) * stride; }
};

// Whether `count` elements from `data` on, and what follows at that distance, begin where a cache line does.
template <class E>
EOKIT_INLINE bool are_lines(const E* data, int64_t count) {
  return (reinterpret_cast<uintptr_t>(data) | static_cast<uintptr_t>(count) * sizeof(E)) % 64 == 0;
}

// The first `count` < V::kWidth elements of a row, zeros behind them.
template <class V, class E>
EOKIT_INLINE typename V::Reg load_first(const E* from, int count) {
  if constexpr (sizeof(E) == sizeof(float)) {
    return V::load_first(from, count);
  } else {
    E all[V::kWidth] = {};
    for (int i = 0; i < count; ++i) all[i] = from[i];
    return V::load(all);
  }
}

template <class V, class E>
EOKIT_INLINE void store_first(E* to, typename V::Reg r, int count) {
  if constexpr (sizeof(E) == sizeof(float)) {
    V::store_first(to, r, count);
  } else {
    E all[V::kWidth];
    V::store(all, r);
    for (int i = 0; i < count; ++i) to[i] = all[i];
  }
}

// dst[r][0..width) = row r as floats, zeros behind it.
template <class V, class E>
void pack_floats(const Rows<E>& rows, float* dst, int64_t width) {
  const int64_t whole = rows.dim / V::kWidth * V::kWidth;
  for (int64_t r = 0; r < rows.count; ++r) {
    const E* from = rows.at(r);
    float* to = dst + r * width;
#pragma GCC unroll 4
    for (int64_t d = 0; d < whole; d += V::kWidth) V::store(to + d, V::load(from + d));
    if (whole < rows.dim) V::store(to + whole, load_first<V>(from + whole, static_cast<int>(rows.dim - whole)));
  }
}

// dst[d][r] = word d of row r, zeros beyond the last one up to a whole register. Words of 32 bits, whatever they hold.
template <class V>
void pack_transposed(const Rows<const float>& rows, float* dst, int64_t panel) {
  for (int64_t r = 0; r < rows.count; r += V::kWidth) {
    const int64_t left = rows.count - r < V::kWidth ? rows.count - r : V::kWidth;
    for (int64_t d = 0; d < rows.dim; d += V::kWidth) {
      const int64_t columns = rows.dim - d < V::kWidth ? rows.dim - d : V::kWidth;
      V::transpose(rows.data + r * rows.stride + d, rows.stride, static_cast<int>(left), static_cast<int>(columns),
                   dst + d * panel + r, panel);
    }
  }
}

// Rows in memory that are written once: row r is multiplied by factors[r * factor_stride]. `past_caches`: if the rows are whole
// cache lines, the caches are left alone.
template <class V, class E>
class Results {
 public:
  // Whether a product may end here. Rounding to half precision takes so much code in every shape of block that the library
  // would grow by half, for 1 to 5 %.
  static constexpr bool kAtOnce = sizeof(E) == sizeof(float);
  static constexpr bool kWorkingMemory = false;

  Results(const Rows<E>& rows, const float* factors, int64_t factor_stride, bool past_caches)
      : rows_(rows),
        factors_(factors),
        factor_stride_(factor_stride),
        streams_(past_caches && are_lines(rows.data, rows.stride) && are_lines(rows.data, rows.dim)) {}

  bool whole_registers() const { return rows_.dim % V::kWidth == 0; }

  // As Matrix has them (matmul.h): what begins `row` rows and `vector` registers further, and a block of sums.
  EOKIT_INLINE Results from(int64_t row, int64_t vector) const {
    Results there = *this;
    there.row_ += row;
    there.first_ += vector * V::kWidth;
    return there;
  }
  template <int R, int N>
  EOKIT_INLINE void put(const typename V::Reg (&block)[R][N]) const {
    if (streams_)
      for_registers<R, N>([&](int m, int n, E* to) { V::stream(to, V::mul(factor(m), block[m][n])); });
    else
      for_registers<R, N>([&](int m, int n, E* to) { V::store(to, V::mul(factor(m), block[m][n])); });
  }
  // A whole row, whether or not it ends with a register.
  EOKIT_INLINE void put_row(int64_t row, const float* from) const {
    const int64_t whole = rows_.dim / V::kWidth * V::kWidth;
    const typename V::Reg scale = factor(row);
    E* to = rows_.at(row_ + row);
    if (streams_) {
      for (int64_t d = 0; d < whole; d += V::kWidth) V::stream(to + d, V::mul(scale, V::load(from + d)));
      return;
    }
    for (int64_t d = 0; d < whole; d += V::kWidth) V::store(to + d, V::mul(scale, V::load(from + d)));
    if (whole < rows_.dim)
      store_first<V>(to + whole, V::mul(scale, V::load(from + whole)), static_cast<int>(rows_.dim - whole));
  }

 private:
  template <int R, int N, class Put>
  EOKIT_INLINE void for_registers(const Put& put) const {
#pragma GCC unroll 16
    for (int m = 0; m < R; ++m)
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) put(m, n, rows_.at(row_ + m) + first_ + n * V::kWidth);
  }
  EOKIT_INLINE typename V::Reg factor(int64_t row) const { return V::set(factors_[(row_ + row) * factor_stride_]); }

  Rows<E> rows_;
  const float* factors_;
  int64_t factor_stride_;
  bool streams_;
  int64_t row_ = 0, first_ = 0;
};

// `rows` rows from working memory, `width` apart.
template <class V, class E>
EOKIT_INLINE void unpack(const float* src, int64_t width, int64_t rows, const Results<V, E>& to) {
  for (int64_t r = 0; r < rows; ++r) to.put_row(r, src + r * width);
}

template <class E>
EOKIT_INLINE void zero(const Rows<E>& rows) {
  for (int64_t r = 0; r < rows.count; ++r)
    for (int64_t d = 0; d < rows.dim; ++d) from_float(0.0f, rows.at(r) + d);
}

// The same for the rows of `all` but the `count` ones `listed`, in ascending order.
template <class E>
EOKIT_INLINE void zero_others(const Rows<E>& all, const int64_t* listed, int64_t count) {
  if (count == all.count) return;
  for (int64_t r = 0, next = 0; r < all.count; ++r)
    if (next < count && listed[next] == r)
      ++next;
    else
      zero(Rows<E>{all.at(r), all.stride, 1, all.dim});
}

}  // namespace
}  // namespace eokit

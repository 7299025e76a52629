// What the products of attention are made of: a policy O says how matrices are packed into words of 32 bits.
//
// The words of a product hold kDepth numbers that follow each other along its depth. An operand is packed as
//
//   rows         word (r, d): a row a token, depth along the features; broadcast word by word
//   lanes        word (r, d): depth along the tokens, lanes along the features
//   transposed   word (d, r): depth along the features, lanes along the tokens
//
// P and dS are written as operands in place of the scores they come from, column by column of one register. Scores, sums
// and the softmax are floats in every policy.
#pragma once

#include "matmul.h"
#include "packing.h"

namespace eokit {
namespace {

// A number a word; half precision becomes float while it is packed. Rows and lanes are then the same.
template <class V>
struct Floats {
  typedef V Arithmetic;
  static constexpr int64_t kDepth = 1;
  static constexpr bool kRowsAreLanes = true;

  static int64_t row_words(int64_t dim) { return round_up(dim, V::kWidth); }

  template <class E>
  static void pack_rows(const Rows<const E>& rows, float* dst) {
    pack_floats<V>(rows, dst, row_words(rows.dim));
  }
  template <class E>
  static void pack_lanes(const Rows<const E>& rows, float* dst) {
    pack_rows(rows, dst);
  }

  // Into the column of `keys`: one row of P^T.
  EOKIT_INLINE static void put_keys(float* keys, const typename V::Reg* p) { V::store(keys, p[0]); }
  // Into row `row` of P^T, lanes first..first + kWidth.
  EOKIT_INLINE static void put_queries(float* row, int64_t first, typename V::Reg p) { V::store(row + first, p); }
};

// Word r of the first operand against word r of the second, as O::Arithmetic sums them.
template <class O>
EOKIT_INLINE int64_t words(int64_t depth) {
  return (depth + O::kDepth - 1) / O::kDepth;
}

// The first `count` rows into words of features across: `dst` (words of dim, panel). `rows_too` gets all of them packed as
// rows on the way.
template <class V, class O, class E>
void pack_transposed_by_rows(const Rows<const E>& rows, int64_t count, float* rows_too, float* dst, int64_t panel) {
  O::pack_rows(rows, rows_too);
  const int64_t stride = O::row_words(rows.dim);
  pack_transposed<V>({rows_too, stride, count, words<O>(rows.dim)}, dst, panel);
}

// The last `count` rows as multiply_few takes its columns.
template <class O, class V, class E>
void pack_few(const Rows<const E>& rows, int64_t count, float* dst) {
  const int64_t stride = O::row_words(rows.dim);
  O::pack_rows(Rows<const E>{rows.at(rows.count - count), rows.stride, count, rows.dim}, dst);
  for (int64_t i = count * stride; i < V::kFew * stride; ++i) dst[i] = 0.0f;
}

}  // namespace
}  // namespace eokit

// Attention of one head of one sequence in L1 and L2, over a vector type V; included once per instruction set.
//
// Lanes run along queries: scores are held transposed, S^T (keys, queries). So the maximum and the sum over keys are
// plain vertical operations, a masked key is a row that is not there (it is never loaded), and every product is
// "broadcast one number, multiply a row" (matmul.h):
//
//   forward    S^T = K Qt,  P^T = exp(S^T - max),  out = P V / sum            Qt: (D, queries), scaled, packed
//   backward   P^T = exp(S^T - lse),  dP^T = V dOt,  dS^T = P^T (dP^T - delta),  delta = rowsum(dO out)
//              dV = P^T dO,  dK = dS^T Q scale,  dQ = dS K scale
//
// Queries go in panels of at most kPanel, keys in blocks of at most kBlock with a running maximum, so that a block of
// scores stays in L1/L2 for any length. K, V, Q and dO are packed first: their rows may be far apart in memory (one date
// of a series is a whole image away from the next), at distances that share a cache set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "../common/math.h"
#include "attention.h"
#include "matmul.h"

namespace eokit {
namespace {

constexpr int64_t kPanel = 64;   // queries
constexpr int64_t kBlock = 192;  // keys: 192 x 64 scores are 48 KiB

EOKIT_INLINE int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Length of the next of equal parts of `left` items when no part may exceed `most`.
EOKIT_INLINE int64_t next_part(int64_t left, int64_t most) {
  const int64_t parts = (left + most - 1) / most;
  return (left + parts - 1) / parts;
}

// Aligned working memory of one thread, handed out in pieces. Plain malloc: no C++ library code is compiled in here.
class Scratch {
 public:
  explicit Scratch(int64_t floats)
      : base_(static_cast<float*>(std::aligned_alloc(64, round_up(floats * 4 + 64 * 32, 64)))), next_(base_) {
    if (base_ == nullptr) std::abort();
  }
  ~Scratch() { std::free(base_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += round_up(floats, 16);
    return piece;
  }

 private:
  float* base_;
  float* next_;
};

// Where the items of a call are: unravels a sequence once for all its heads, lists its valid keys once per mask row.
class Walk {
 public:
  Walk(const AttentionShape& shape, const KeyMask& mask, int64_t* rows) : shape_(shape), mask_(mask), rows_(rows) {
    for (int64_t j = 0; j < shape.keys; ++j) rows_[j] = j;
    count_ = shape.keys;
  }

  void go_to(int64_t item) {
    head = item % shape_.heads;
    const int64_t sequence = item / shape_.heads;
    if (sequence == sequence_) return;
    sequence_ = sequence;
    shape_.leading.unravel(sequence, coordinates_);
    if (mask_.valid.data == nullptr) return;
    const bool* valid = mask_.valid.at(coordinates_, shape_.leading.count);
    if (valid == listed_) return;
    listed_ = valid;
    count_ = 0;
    for (int64_t j = 0; j < shape_.keys; ++j)
      if (valid[j * mask_.valid.row]) rows_[count_++] = j;
  }

  // First row of the present item in `x`.
  template <class T>
  EOKIT_INLINE T* in(const Sequences<T>& x) const {
    return x.at(coordinates_, shape_.leading.count) + head * x.head;
  }

  int64_t head = 0;
  int64_t count() const { return count_; }        // valid keys
  const int64_t* rows() const { return rows_; }  // which ones

 private:
  const AttentionShape& shape_;
  const KeyMask& mask_;
  int64_t* rows_;
  int64_t count_ = 0, sequence_ = -1;
  const bool* listed_ = nullptr;
  int64_t coordinates_[kMaxLeading] = {};
};

// Asks for the next item's part of a row. The rows of an item are too far apart for the hardware to foresee, but the
// next item's are mostly one head further; where they are not, a useless request costs next to nothing.
EOKIT_INLINE void prefetch_row(const float* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 16) __builtin_prefetch(row + d, 0, 2);
}

// dst[r][0..width) = factor * src[rows[r]][0..dim), padded with zeros. rows == nullptr: rows 0, 1, 2 ...
// `next` is how far ahead of each row to prefetch.
template <class V>
void pack_rows(const float* src, int64_t stride, int64_t next, const int64_t* rows, int64_t count, int64_t dim,
               float factor, float* dst, int64_t width) {
  const typename V::Reg scale = V::set(factor);
  const int64_t whole = dim / V::kWidth * V::kWidth;
  for (int64_t r = 0; r < count; ++r) {
    const float* from = src + (rows ? rows[r] : r) * stride;
    float* to = dst + r * width;
    prefetch_row(from + next, dim);
    for (int64_t d = 0; d < whole; d += V::kWidth) V::store(to + d, V::mul(scale, V::load(from + d)));
    if (whole < dim) V::store(to + whole, V::mul(scale, V::load_first(from + whole, static_cast<int>(dim - whole))));
  }
}

// dst[d][0..panel) = factor * src[0..count)[d], zeros beyond count.
template <class V>
void pack_transposed(const float* src, int64_t stride, int64_t next, int64_t count, int64_t dim, float factor, float* dst,
                     int64_t panel) {
  for (int64_t r = 0; r < panel; r += V::kWidth) {
    const int64_t left = count - r < V::kWidth ? count - r : V::kWidth;
    for (int64_t i = r; next != 0 && i < r + left; ++i) prefetch_row(src + i * stride + next, dim);
    for (int64_t d = 0; d < dim; d += V::kWidth) {
      const int64_t columns = dim - d < V::kWidth ? dim - d : V::kWidth;
      V::transpose(src + r * stride + d, stride, static_cast<int>(left), static_cast<int>(columns), dst + d * panel + r,
                   panel, factor);
    }
  }
}

// dst[rows[r]][0..dim) = factor(r) * src[r][0..dim).
template <class V, class Factor>
EOKIT_INLINE void unpack_rows(const float* src, int64_t width, const int64_t* rows, int64_t count, int64_t dim,
                              const Factor& factor, float* dst, int64_t stride) {
  const int64_t whole = dim / V::kWidth * V::kWidth;
  for (int64_t r = 0; r < count; ++r) {
    const typename V::Reg scale = V::set(factor(r));
    const float* from = src + r * width;
    float* to = dst + (rows ? rows[r] : r) * stride;
    for (int64_t d = 0; d < whole; d += V::kWidth) V::store(to + d, V::mul(scale, V::load(from + d)));
    if (whole < dim)
      V::store_first(to + whole, V::mul(scale, V::load(from + whole)), static_cast<int>(dim - whole));
  }
}

EOKIT_INLINE void zero_rows(float* dst, int64_t stride, int64_t count, int64_t dim) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t d = 0; d < dim; ++d) dst[r * stride + d] = 0.0f;
}

// One block of scores S^T (keys, panel) becomes exp(S^T - maximum). `maximum` and `sum` (panel) run over the blocks;
// `decay` gets what earlier results must be multiplied with because the maximum rose.
template <class V>
void softmax_block(float* scores, int64_t keys, int64_t panel, float* maximum, float* sum, float* decay) {
  using Reg = typename V::Reg;
  for (int64_t c = 0; c < panel; c += V::kWidth) {
    float* column = scores + c;
    const Reg before = V::load(maximum + c);
    Reg m0 = before, m1 = before;  // two chains hide half of the latency
    int64_t j = 0;
    for (; j + 1 < keys; j += 2) {
      m0 = V::max(m0, V::load(column + j * panel));
      m1 = V::max(m1, V::load(column + (j + 1) * panel));
    }
    if (j < keys) m0 = V::max(m0, V::load(column + j * panel));
    const Reg highest = V::max(m0, m1);
    const Reg fading = exp<V>(V::sub(before, highest));
    Reg total = V::mul(V::load(sum + c), fading);
    for (j = 0; j < keys; ++j) {
      const Reg p = exp<V>(V::sub(V::load(column + j * panel), highest));
      V::store(column + j * panel, p);
      total = V::add(total, p);
    }
    V::store(maximum + c, highest);
    V::store(sum + c, total);
    V::store(decay + c, fading);
  }
}

template <class V>
void scale_rows(float* x, int64_t width, int64_t count, const float* factors) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t d = 0; d < width; d += V::kWidth)
      V::store(x + r * width + d, V::mul(V::set(factors[r]), V::load(x + r * width + d)));
}

template <class V>
void forward_items(const AttentionForward& call, int64_t begin, int64_t end) {
  const AttentionShape& shape = call.shape;
  const int64_t dim = shape.dim, width = round_up(dim, V::kWidth);
  const int64_t wide = shape.queries < kPanel ? round_up(shape.queries, V::kWidth) : kPanel;
  const int64_t block = shape.keys < kBlock ? shape.keys : kBlock;
  Scratch scratch(2 * shape.keys * width + wide * (dim + block + width + 3) + 2 * shape.keys);
  Walk walk(shape, call.mask, reinterpret_cast<int64_t*>(scratch.take(2 * shape.keys)));
  float* keys = scratch.take(shape.keys * width);
  float* values = scratch.take(shape.keys * width);
  float* queries = scratch.take(dim * wide);  // Qt
  float* scores = scratch.take(block * wide);
  float* out = scratch.take(wide * width);
  float* maximum = scratch.take(wide);
  float* sum = scratch.take(wide);
  float* decay = scratch.take(wide);

  for (int64_t item = begin; item < end; ++item) {
    walk.go_to(item);
    float* lse = call.lse + item * shape.queries;
    if (walk.count() == 0) {
      zero_rows(walk.in(call.out), call.out.row, shape.queries, dim);
      for (int64_t i = 0; i < shape.queries; ++i) lse[i] = std::numeric_limits<float>::infinity();
      continue;
    }
    pack_rows<V>(walk.in(call.k), call.k.row, call.k.head, walk.rows(), walk.count(), dim, 1.0f, keys, width);
    pack_rows<V>(walk.in(call.v), call.v.row, call.v.head, walk.rows(), walk.count(), dim, 1.0f, values, width);
    for (int64_t first = 0, length; first < shape.queries; first += length) {
      length = next_part(shape.queries - first, kPanel);
      const int64_t panel = round_up(length, V::kWidth), vectors = panel / V::kWidth;
      pack_transposed<V>(walk.in(call.q) + first * call.q.row, call.q.row, call.q.head, length, dim, shape.scale, queries, panel);
      for (int64_t i = 0; i < panel; ++i) maximum[i] = -std::numeric_limits<float>::infinity(), sum[i] = 0.0f;
      for (int64_t key = 0, count; key < walk.count(); key += count) {
        count = next_part(walk.count() - key, kBlock);
        multiply<V, Layout::kRows>({count, vectors, dim, keys + key * width, width, queries, panel, scores, panel, false});
        softmax_block<V>(scores, count, panel, maximum, sum, decay);
        if (key > 0) scale_rows<V>(out, width, length, decay);
        multiply<V, Layout::kColumns>(
            {length, width / V::kWidth, count, scores, panel, values + key * width, width, out, width, key > 0});
      }
      unpack_rows<V>(out, width, nullptr, length, dim, [&](int64_t i) { return 1.0f / sum[i]; },
                     walk.in(call.out) + first * call.out.row, call.out.row);
      for (int64_t i = 0; i < length; ++i) lse[first + i] = maximum[i] + std::log(sum[i]);
    }
  }
}

// scores becomes P^T, slopes (dP^T) becomes dS^T.
template <class V>
void softmax_gradient(float* scores, float* slopes, int64_t keys, int64_t panel, const float* lse, const float* delta) {
  using Reg = typename V::Reg;
  for (int64_t c = 0; c < panel; c += V::kWidth) {
    const Reg shift = V::load(lse + c), mean = V::load(delta + c);
    for (int64_t j = 0; j < keys; ++j) {
      float* at = scores + j * panel + c;
      float* slope = slopes + j * panel + c;
      const Reg p = exp<V>(V::sub(V::load(at), shift));
      V::store(at, p);
      V::store(slope, V::mul(p, V::sub(V::load(slope), mean)));
    }
  }
}

// delta[i] = sum_d a[i][d] b[i][d] for two packed or strided matrices.
EOKIT_INLINE void dot_rows(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t count,
                           int64_t dim, float* delta) {
  for (int64_t i = 0; i < count; ++i) {
    float part[16] = {};
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16)
      for (int lane = 0; lane < 16; ++lane) part[lane] += a[i * a_stride + d + lane] * b[i * b_stride + d + lane];
    for (; d < dim; ++d) part[0] += a[i * a_stride + d] * b[i * b_stride + d];
    for (int half = 8; half > 0; half /= 2)
      for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
    delta[i] = part[0];
  }
}

template <class V>
void backward_items(const AttentionBackward& call, int64_t begin, int64_t end) {
  const AttentionShape& shape = call.shape;
  const int64_t dim = shape.dim, width = round_up(dim, V::kWidth), columns = width / V::kWidth;
  const int64_t wide = shape.queries < kPanel ? round_up(shape.queries, V::kWidth) : kPanel;
  const int64_t block = shape.keys < kBlock ? shape.keys : kBlock;
  Scratch scratch(4 * shape.keys * width + wide * (2 * dim + 3 * width + 2 * block + 2) + 2 * shape.keys);
  Walk walk(shape, call.mask, reinterpret_cast<int64_t*>(scratch.take(2 * shape.keys)));
  float* keys = scratch.take(shape.keys * width);
  float* values = scratch.take(shape.keys * width);
  float* grad_keys = scratch.take(shape.keys * width);
  float* grad_values = scratch.take(shape.keys * width);
  float* queries = scratch.take(wide * width);  // Q scaled
  float* queries_t = scratch.take(dim * wide);
  float* grads = scratch.take(wide * width);  // dO
  float* grads_t = scratch.take(dim * wide);
  float* grad_queries = scratch.take(wide * width);
  float* scores = scratch.take(block * wide);
  float* slopes = scratch.take(block * wide);
  float* lse = scratch.take(wide);
  float* delta = scratch.take(wide);

  for (int64_t item = begin; item < end; ++item) {
    walk.go_to(item);
    float* grad_k = walk.in(call.grad_k);
    float* grad_v = walk.in(call.grad_v);
    if (walk.count() < shape.keys) {
      zero_rows(grad_k, call.grad_k.row, shape.keys, dim);
      zero_rows(grad_v, call.grad_v.row, shape.keys, dim);
    }
    if (walk.count() == 0) {
      zero_rows(walk.in(call.grad_q), call.grad_q.row, shape.queries, dim);
      continue;
    }
    pack_rows<V>(walk.in(call.k), call.k.row, call.k.head, walk.rows(), walk.count(), dim, 1.0f, keys, width);
    pack_rows<V>(walk.in(call.v), call.v.row, call.v.head, walk.rows(), walk.count(), dim, 1.0f, values, width);
    for (int64_t first = 0, length; first < shape.queries; first += length) {
      length = next_part(shape.queries - first, kPanel);
      const int64_t panel = round_up(length, V::kWidth), vectors = panel / V::kWidth;
      const float* q = walk.in(call.q) + first * call.q.row;
      const float* grad_out = walk.in(call.grad_out) + first * call.grad_out.row;
      pack_rows<V>(q, call.q.row, call.q.head, nullptr, length, dim, shape.scale, queries, width);
      pack_rows<V>(grad_out, call.grad_out.row, call.grad_out.head, nullptr, length, dim, 1.0f, grads, width);
      pack_transposed<V>(queries, width, 0, length, dim, 1.0f, queries_t, panel);
      pack_transposed<V>(grads, width, 0, length, dim, 1.0f, grads_t, panel);
      dot_rows(grads, width, walk.in(call.out) + first * call.out.row, call.out.row, length, dim, delta);
      for (int64_t i = 0; i < length; ++i) lse[i] = call.lse[item * shape.queries + first + i];
      for (int64_t i = length; i < panel; ++i) lse[i] = delta[i] = 0.0f;
      for (int64_t key = 0, count; key < walk.count(); key += count) {
        count = next_part(walk.count() - key, kBlock);
        const int64_t at = key * width;
        multiply<V, Layout::kRows>({count, vectors, dim, keys + at, width, queries_t, panel, scores, panel, false});
        multiply<V, Layout::kRows>({count, vectors, dim, values + at, width, grads_t, panel, slopes, panel, false});
        softmax_gradient<V>(scores, slopes, count, panel, lse, delta);
        multiply<V, Layout::kRows>(
            {count, columns, length, scores, panel, grads, width, grad_values + at, width, first > 0});
        multiply<V, Layout::kRows>(
            {count, columns, length, slopes, panel, queries, width, grad_keys + at, width, first > 0});
        multiply<V, Layout::kColumns>(
            {length, columns, count, slopes, panel, keys + at, width, grad_queries, width, key > 0});
      }
      unpack_rows<V>(grad_queries, width, nullptr, length, dim, [&](int64_t) { return shape.scale; },
                     walk.in(call.grad_q) + first * call.grad_q.row, call.grad_q.row);
    }
    const auto one = [](int64_t) { return 1.0f; };
    unpack_rows<V>(grad_keys, width, walk.rows(), walk.count(), dim, one, grad_k, call.grad_k.row);
    unpack_rows<V>(grad_values, width, walk.rows(), walk.count(), dim, one, grad_v, call.grad_v.row);
  }
}

}  // namespace
}  // namespace eokit

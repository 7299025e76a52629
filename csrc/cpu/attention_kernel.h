// Attention of one head of one sequence in L1 and L2, over a vector type V; included once per instruction set.
//
// Lanes run along queries: scores are held transposed, S^T (keys, queries). So the maximum and the sum over keys are
// plain vertical operations, a masked key is a row that is not there (it is never loaded), and every product is
// "broadcast one number, multiply a row" (matmul.h), except for one to four queries behind the last full AVX-512 register:
//
//   forward    S^T = K Qt,  P^T = exp(scale S^T + bias - max),  out = P V / sum            Qt: (D, queries), packed
//   backward   P^T = exp(scale S^T + bias - lse),  dP^T = V dOt,  dS^T = P^T (dP^T - delta),
//              delta = rowsum(dO out) = sum over keys of P^T dP^T
//              dV = P^T dO,  dK = scale dS^T Q,  dQ = scale dS K,  dbias = dS summed over the sequences that share it
//
// Queries go in panels of at most kPanel or kBackwardPanel, whole registers but for the last, keys in blocks of at most
// kBlock with a running maximum, so that a block of scores stays in L1/L2 for any length. K, V, Q and dO are packed first:
// their rows may be far apart in memory (one date of a series is a whole image away from the next), at distances that share
// a cache set. What they are packed into, and with that the arithmetic of the products, is a policy O (operands.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../common/math.h"
#include "ahead.h"
#include "attention.h"
#include "lanes.h"
#include "operands.h"

namespace eokit {
namespace {

// Length of the next of equal parts of `left` items when no part may exceed `most`; whole units but for the last.
EOKIT_INLINE int64_t next_part(int64_t left, int64_t most, int64_t unit = 1) {
  const int64_t parts = (left + most - 1) / most;
  const int64_t part = round_up((left + parts - 1) / parts, unit);
  return part < left ? part : left;
}

// Where the items of a call are: unravels a sequence once for all its heads, lists its valid keys once per mask row.
class Walk {
 public:
  Walk(const AttentionShape& shape, const KeyMask& mask, int64_t* rows) : shape_(shape), mask_(mask), rows_(rows) {
    for (int64_t j = 0; j < shape.keys; ++j) rows_[j] = j;
    count_ = shape.keys;
  }

  // Whether other keys are valid than for the item before.
  bool go_to(int64_t item) {
    head_ = item % shape_.heads;
    const int64_t sequence = item / shape_.heads;
    if (sequence == sequence_) return false;
    sequence_ = sequence;
    shape_.leading.unravel(sequence, coordinates_);
    if (mask_.valid.data == nullptr) return false;
    const bool* valid = mask_.valid.at(coordinates_, shape_.leading.count);
    if (valid == listed_) return false;
    listed_ = valid;
    count_ = 0;
    for (int64_t j = 0; j < shape_.keys; ++j)
      if (valid[j * mask_.valid.row]) rows_[count_++] = j;
    return true;
  }

  // First row of the present item in `x`.
  template <class T>
  EOKIT_INLINE T* in(const Sequences<T>& x) const {
    return x.at(coordinates_, shape_.leading.count) + head_ * x.head;
  }

  // `count` queries from `first` on; all queries; the valid keys.
  template <class T>
  EOKIT_INLINE Rows<T> queries(const Sequences<T>& x, int64_t first, int64_t count) const {
    return {in(x) + first * x.row, x.row, count, shape_.dim, nullptr, x.head};
  }
  template <class T>
  EOKIT_INLINE Rows<T> queries(const Sequences<T>& x) const {
    return queries(x, 0, shape_.queries);
  }
  template <class T>
  EOKIT_INLINE Rows<T> keys(const Sequences<T>& x) const {
    return {in(x), x.row, count_, shape_.dim, rows_, x.head};
  }
  template <class T>
  EOKIT_INLINE void zero_invalid_keys(const Sequences<T>& x) const {
    zero_others(Rows<T>{in(x), x.row, shape_.keys, shape_.dim}, rows_, count_);
  }

  // How many items are left, from `item` on, of its group of so many heads of a sequence.
  int64_t heads_left(int64_t item, int64_t group) const {
    const int64_t head = item % shape_.heads, of_group = group - head % group, all = shape_.heads - head;
    return of_group < all ? of_group : all;
  }

  int64_t count() const { return count_; }       // valid keys
  const int64_t* rows() const { return rows_; }  // which ones

 private:
  const AttentionShape& shape_;
  const KeyMask& mask_;
  int64_t* rows_;
  int64_t head_ = 0, count_ = 0, sequence_ = -1;
  const bool* listed_ = nullptr;
  int64_t coordinates_[kMaxLeading] = {};
};

// It is `item`'s turn to ask for rows of items before `end`: of k and v the rows of valid keys, of the others all. `steps`:
// how many its loops have.
template <class E, class... Others>
void look_ahead(Ahead& ahead, Walk& coming, int64_t item, int64_t end, int64_t steps, const Sequences<const E>& k,
                const Sequences<const E>& v, const Others&... others) {
  if (ahead.through()) {
    const int64_t next = item + ahead.asked();
    if (next < end) {
      const bool others_valid = coming.go_to(next);
      const int64_t left = coming.heads_left(next, ahead.heads());
      ahead.want(left, others_valid, coming.keys(k), coming.keys(v), coming.queries(others)...);
    } else {
      ahead.want_nothing();
    }
  }
  ahead.turn(steps);
}

// A block of a bias or of its gradient: row j at data + rows[j] * stride, `length` queries from the panel's first on.
template <class T>
struct BiasBlock {
  T* data;
  int64_t stride;
  const int64_t* rows;
  int64_t length;

  EOKIT_INLINE T* at(int64_t key, int64_t query) const { return data + rows[key] * stride + query; }
};

template <class T>
EOKIT_INLINE BiasBlock<T> block_of(const Sequences<T>& bias, const Walk& walk, int64_t key, int64_t first, int64_t length) {
  return {bias.data ? walk.in(bias) + first : nullptr, bias.row, walk.rows() + key, length};
}

// S^T (count, panel) of `count` keys, packed as rows, and `length` queries: `queries` holds them transposed, but for the one
// to four that `last` holds as rows, which Scores do not compare. dP^T comes the same way, of values and the gradients of
// the output.
template <class O, class To>
EOKIT_INLINE void make_scores(int64_t count, int64_t dim, const float* keys, const float* queries, const float* last,
                              int64_t length, const To& scores, Ahead& ahead) {
  using V = typename O::Arithmetic;
  const int64_t row = O::row_words(dim), panel = scores.stride, few = few_of<V>(length);
  const int64_t vectors = (length - few + V::kWidth - 1) / V::kWidth;
  multiply<V, Layout::kRows>({count, vectors, words<O>(dim), keys, row, queries, panel}, scores, ahead);
  if constexpr (V::kFew > 0)
    if (few > 0) multiply_few<V>(count, row, keys, row, last, scores.data + length - few, panel, ahead);
}

// Sums of a product that end as rows of results: at once, or if others come before (`accumulate`) or behind (not `last`),
// by way of `sums` (rows, width).
template <class V, Layout L, class To>
EOKIT_INLINE void multiply_into(const Product& p, float* sums, bool accumulate, bool last, const To& results,
                                Ahead& ahead) {
  if constexpr (To::kAtOnce)
    if (last && !accumulate && results.whole_registers()) {
      multiply<V, L>(p, results, ahead);
      return;
    }
  const int64_t width = p.vectors * V::kWidth;
  multiply<V, L>(p, Matrix<V>{sums, width, accumulate}, ahead);
  if (last) unpack(sums, width, p.rows, results);
}

// S^T becomes scale S^T + bias; nothing where there is no bias. Returns the scale that is still to be applied.
template <class V>
float add_bias(float* scores, int64_t keys, int64_t panel, float scale, const BiasBlock<const float>& bias) {
  if (bias.data == nullptr) return scale;
  const typename V::Reg factor = V::set(scale);
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t c = 0; c < bias.length; c += V::kWidth) {
      const int64_t left = bias.length - c;
      const float* from = bias.at(j, c);
      const typename V::Reg b = left < V::kWidth ? V::load_first(from, static_cast<int>(left)) : V::load(from);
      float* at = scores + j * panel + c;
      V::store(at, V::fma(V::load(at), factor, b));
    }
  return 1.0f;
}

// Of every query from `first` on the score that `scale` makes the largest.
template <class V>
void find_highest(const float* scores, int64_t keys, int64_t panel, int64_t first, float scale, float* highest) {
  using Reg = typename V::Reg;
  const Reg sign = V::set(scale < 0.0f ? -1.0f : 1.0f);
  for (int64_t c = first; c < panel; c += V::kWidth) {
    const float* column = scores + c;
    Reg m0 = V::set(std::numeric_limits<float>::lowest()), m1 = m0;  // two chains hide half of the latency
    int64_t j = 0;
    for (; j + 1 < keys; j += 2) {
      m0 = V::max(m0, V::mul(sign, V::load(column + j * panel)));
      m1 = V::max(m1, V::mul(sign, V::load(column + (j + 1) * panel)));
    }
    if (j < keys) m0 = V::max(m0, V::mul(sign, V::load(column + j * panel)));
    V::store(highest + c, V::mul(sign, V::max(m0, m1)));
  }
}

// Whether any of `count` scores times `scale` is so large that rounding its logarithm to base 2 could be seen; NaN is not.
template <class V>
bool any_large(const float* scores, int64_t count, float scale) {
  const typename V::Reg factor = V::set(scale);
  typename V::Reg largest = V::zero();
  for (int64_t c = 0; c < count; c += V::kWidth) {
    const typename V::Reg x = V::mul(factor, V::load(scores + c));
    largest = V::max(V::max(x, V::sub(V::zero(), x)), largest);
  }
  return V::any_above(largest, V::set(1048576.0f));  // 0.1 of a power of two
}

// Whether weights over so many blocks of keys have natural logarithms: where blocks meet, or queries in the backward meet
// the lse of the forward, the rounding of a maximum to base 2 would stay; within one block it is that of all weights of a
// query, and cancels. With a bias scores and maximum may be -1e30, whose roundings are large. And without fused
// multiply-add every score would be rounded to base 2.
template <class V>
EOKIT_INLINE bool needs_natural(bool in_blocks, bool biased) {
  return in_blocks || biased || !V::kFused;
}

// What a score weighs: exp(scale * score - most). Logarithms of weights are of base 2, so that scale, base and difference
// take one step; or kNatural, at one step more.
template <class V, bool kNatural>
class Weight {
 public:
  using Reg = typename V::Reg;

  explicit Weight(float scale) : factor_(V::set(kNatural ? scale : scale * kLog2E)) {}

  EOKIT_INLINE static Reg logarithm(Reg natural) { return kNatural ? natural : V::mul(V::set(kLog2E), natural); }
  EOKIT_INLINE static Reg power(Reg logarithm) { return kNatural ? exp<V>(logarithm) : exp2<V>(logarithm); }
  EOKIT_INLINE Reg operator()(Reg score, Reg most) const {
    return power(V::fma(factor_, score, V::sub(V::zero(), most)));
  }

 private:
  Reg factor_;
};

// One block of scores S^T (keys, panel) becomes P^T = exp(scale S^T - maximum), packed as O has it for a product over
// keys; `highest` are the scores that `scale` makes the largest. `maximum` and `sum` (panel) run over the blocks; `decay`
// gets what earlier results must be multiplied with because the maximum rose.
template <class V, class O, bool kNatural>
void softmax_block(float* scores, int64_t keys, int64_t panel, float scale, const float* highest, float* maximum,
                   float* sum, float* decay, Ahead& ahead) {
  using Reg = typename V::Reg;
  const Weight<V, kNatural> weight(scale);
  for (int64_t c = 0; c < panel; c += V::kWidth) {
    float* column = scores + c;
    const Reg before = V::load(maximum + c), now = V::max(before, V::mul(V::set(scale), V::load(highest + c)));
    const Reg most = weight.logarithm(now), fading = weight.power(V::sub(weight.logarithm(before), most));
    Reg total = V::zero();
    const Ahead::Share next = ahead.share(words<O>(keys));
    for (int64_t j = 0; j < keys; j += O::kDepth) {
      next.ask(j / O::kDepth);
      Reg p[O::kDepth];
      for (int64_t d = 0; d < O::kDepth; ++d) {
        p[d] = j + d < keys ? weight(V::load(column + (j + d) * panel), most) : V::zero();
        total = V::add(total, p[d]);
      }
      O::put_keys(column + j / O::kDepth * panel, p);
    }
    V::store(maximum + c, now);
    V::store(sum + c, V::fma(V::load(sum + c), fading, total));
    V::store(decay + c, fading);
  }
}

// The most steps that one of an item's loops has: over the features, a block of keys, or a panel.
template <class O>
EOKIT_INLINE int64_t longest_loop(int64_t dim, int64_t block, int64_t wide) {
  const int64_t depth = words<O>(dim) > block ? words<O>(dim) : block;
  return depth > wide ? depth : wide;
}

// About how many steps an item's products have in all: `scores` of them make scores (keys, queries), the others sum tokens.
template <class V, class O>
EOKIT_INLINE int64_t steps_of_products(int64_t scores, int64_t others, int64_t queries, int64_t keys, int64_t dim) {
  const int64_t few = few_of<V>(queries);  // as if they were one panel
  const int64_t lanes = scores * words<O>(dim) * keys * round_up(queries - few, V::kWidth) +
                        others * words<O>(keys) * queries * round_up(dim, V::kWidth);
  const int64_t of_few = few > 0 ? scores * (keys / 4) * (O::row_words(dim) / V::kWidth) : 0;
  return lanes / (V::kWidth * V::kColumns * V::rows(V::kColumns)) + of_few;
}

// And its softmax: one a key for every vector of queries.
template <class V, class O>
EOKIT_INLINE int64_t steps_of_softmax(int64_t queries, int64_t keys) {
  return words<O>(keys) * round_up(queries, V::kWidth) / V::kWidth;
}

template <class V>
void scale_rows(float* x, int64_t width, int64_t count, const float* factors) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t d = 0; d < width; d += V::kWidth)
      V::store(x + r * width + d, V::mul(V::set(factors[r]), V::load(x + r * width + d)));
}

template <class V, class O, class E>
void forward_items(const AttentionForward<E>& call, int64_t begin, int64_t end) {
  using Arithmetic = typename O::Arithmetic;
  const AttentionShape& shape = call.shape;
  const int64_t dim = shape.dim, width = round_up(dim, V::kWidth), row = O::row_words(dim);
  const int64_t wide = shape.queries < kPanel ? round_up(shape.queries, V::kWidth) : kPanel;
  const int64_t block = shape.keys < kBlock ? shape.keys : kBlock;
  const int64_t longest = longest_loop<O>(dim, block, wide);
  const int64_t rows = 2 * shape.keys + shape.queries;
  const int64_t group = Ahead::heads_of_group<E>(rows, dim, shape.heads, call.ahead);
  const int64_t for_ahead = Ahead::floats<E>(rows, dim, group, call.ahead, longest);
  Scratch scratch(shape.keys * (row + width) + wide * (dim + block + width + 4) + V::kFew * row + 4 * shape.keys +
                  for_ahead);
  Walk walk(shape, call.mask, reinterpret_cast<int64_t*>(scratch.take(2 * shape.keys)));
  Walk coming(shape, call.mask, reinterpret_cast<int64_t*>(scratch.take(2 * shape.keys)));
  float* keys = scratch.take(shape.keys * row);
  float* values = scratch.take(words<O>(shape.keys) * width);
  float* queries = scratch.take(words<O>(dim) * wide);  // Qt
  float* last = scratch.take(V::kFew * row);            // the queries that Qt leaves out
  float* scores = scratch.take(block * wide);
  float* out = scratch.take(wide * width);
  float* highest = scratch.take(wide);
  float* maximum = scratch.take(wide);
  float* sum = scratch.take(wide);
  float* decay = scratch.take(wide);
  Ahead ahead(scratch.take(for_ahead), group, call.ahead, longest);

  const bool compares = call.bias.data == nullptr && shape.scale >= 0.0f;
  static_assert(kPanel % V::kWidth == 0 && kBackwardPanel % V::kWidth == 0);  // none grows beyond `wide`
  const int64_t panels = (shape.queries + kPanel - 1) / kPanel;
  const auto begin_of = [&](int64_t panel) {  // of nearly equal length
    const int64_t query = round_up(panel * shape.queries / panels, V::kWidth);
    return query < shape.queries ? query : shape.queries;
  };
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t item = unit / call.parts, part = unit % call.parts;
    const int64_t panel_begin = part * panels / call.parts, panel_end = (part + 1) * panels / call.parts;
    const int64_t start = begin_of(panel_begin), until = begin_of(panel_end);
    walk.go_to(item);
    if (part + 1 == call.parts)  // the parts before want the same rows once more
      look_ahead(ahead, coming, item, (end + call.parts - 1) / call.parts,
                 steps_of_products<V, O>(1, 1, until - start, walk.count(), dim) +
                     steps_of_softmax<V, O>(until - start, walk.count()),
                 call.k, call.v, call.q);
    float* lse = call.lse + item * shape.queries;
    if (walk.count() == 0) {
      zero(walk.queries(call.out, start, until - start));
      for (int64_t i = start; i < until; ++i) lse[i] = std::numeric_limits<float>::infinity();
      continue;
    }
    O::pack_rows(walk.keys(call.k), keys);
    O::pack_lanes(walk.keys(call.v), values);
    for (int64_t index = panel_begin; index < panel_end; ++index) {
      const int64_t first = begin_of(index), length = begin_of(index + 1) - first;
      const int64_t panel = round_up(length, V::kWidth), few = few_of<V>(length);
      const auto q = walk.queries(call.q, first, length);
      if constexpr (sizeof(E) == sizeof(float))
        pack_transposed<V>(walk.queries(call.q, first, length - few), queries, panel);
      else
        pack_transposed_by_rows<V, O>(q, length - few, out, queries, panel);  // `out` is free until the first product
      if (few > 0) pack_few<O, V>(q, few, last);
      const Results<V, E> results(walk.queries(call.out, first, length), decay, 1, call.past_caches);
      for (int64_t i = 0; i < panel; ++i) maximum[i] = std::numeric_limits<float>::lowest(), sum[i] = 0.0f;
      const bool in_natural = needs_natural<V>(walk.count() > kBlock, call.bias.data != nullptr);
      bool natural = in_natural;
      for (int64_t key = 0, count; key < walk.count(); key += count) {
        count = next_part(walk.count() - key, kBlock, O::kDepth);
        const float* k = keys + key * row;
        int64_t compared = 0;  // queries whose highest score is known as soon as they are made
        if (compares) {
          for (int64_t i = 0; i < panel; ++i) highest[i] = std::numeric_limits<float>::lowest();
          make_scores<O>(count, dim, k, queries, last, length, Scores<Arithmetic>{scores, panel, highest}, ahead);
          compared = few > 0 ? panel - V::kWidth : panel;
        } else {
          make_scores<O>(count, dim, k, queries, last, length, Matrix<Arithmetic>{scores, panel, false}, ahead);
        }
        const float scale = add_bias<V>(scores, count, panel, shape.scale, block_of(call.bias, walk, key, first, length));
        find_highest<V>(scores, count, panel, compared, scale, highest);
        natural = in_natural || any_large<V>(highest, panel, scale);
        const auto softmax = natural ? softmax_block<V, O, true> : softmax_block<V, O, false>;
        softmax(scores, count, panel, scale, highest, maximum, sum, decay, ahead);
        if (key > 0) scale_rows<V>(out, width, length, decay);
        const bool last_block = key + count == walk.count();
        if (last_block)  // `decay` becomes what `results` are multiplied with
          for (int64_t c = 0; c < panel; c += V::kWidth) V::store(decay + c, V::div(V::set(1.0f), V::load(sum + c)));
        multiply_into<Arithmetic, Layout::kColumns>(
            {length, width / V::kWidth, words<O>(count), scores, panel, values + words<O>(key) * width, width}, out,
            key > 0, last_block, results, ahead);
      }
      for (int64_t c = 0; c < length; c += V::kWidth) {
        const int left = static_cast<int>(length - c < V::kWidth ? length - c : V::kWidth);
        const typename V::Reg most = V::load(maximum + c), of_sum = log<V>(V::load(sum + c));
        const typename V::Reg by_two = V::fma(V::set(kLn2), Weight<V, false>::logarithm(most), of_sum);  // as weights have it
        V::store_first(lse + first + c, natural ? V::add(most, of_sum) : by_two, left);
      }
    }
  }
  if (call.past_caches) V::finish_streams();
}

// S^T becomes P^T and slopes, dP^T, becomes dS^T, both for products over queries; `by_keys` gets dS^T for a product over
// keys where O packs it differently. The gradient of the bias grows by dS^T. delta == nullptr: these are all the keys.
// Then delta is summed from what is here, so that `out` need not be read, and P^T is divided by its sum: the rounding of
// lse would else be left over where the slopes of a query nearly cancel.
template <class V, class O, bool kNatural>
void softmax_gradient(float* scores, float* slopes, float* by_keys, int64_t keys, int64_t panel, float scale,
                      const float* lse, const float* delta, const BiasBlock<float>& grad_bias) {
  using Reg = typename V::Reg;
  const Weight<V, kNatural> weight(scale);
  for (int64_t c = 0; c < panel; c += V::kWidth) {
    const Reg most = weight.logarithm(V::load(lse + c));
    Reg mean, share = V::set(1.0f);
    if (delta != nullptr) {
      mean = V::load(delta + c);
    } else {
      Reg all = V::zero(), sum = V::zero();
      for (int64_t j = 0; j < keys; ++j) {
        const Reg p = weight(V::load(scores + j * panel + c), most);
        all = V::add(all, p);
        sum = V::fma(p, V::load(slopes + j * panel + c), sum);
        V::store(scores + j * panel + c, p);
      }
      share = V::div(V::set(1.0f), all);
      mean = V::mul(share, sum);
    }
    for (int64_t j = 0; j < keys; j += O::kDepth) {
      Reg ds[O::kDepth];
      for (int64_t d = 0; d < O::kDepth; ++d) {
        if (j + d >= keys) {
          ds[d] = V::zero();
          continue;
        }
        float* score = scores + (j + d) * panel;
        float* slope = slopes + (j + d) * panel;
        const Reg p = delta != nullptr ? weight(V::load(score + c), most) : V::mul(share, V::load(score + c));
        ds[d] = V::mul(p, V::sub(V::load(slope + c), mean));
        O::put_queries(score, c, p);
        O::put_queries(slope, c, ds[d]);
        if (grad_bias.data != nullptr && c < grad_bias.length) {
          float* sum = grad_bias.at(j + d, c);
          const int64_t left = grad_bias.length - c;
          if (left < V::kWidth)
            V::store_first(sum, V::add(ds[d], V::load_first(sum, static_cast<int>(left))), static_cast<int>(left));
          else
            V::store(sum, V::add(ds[d], V::load(sum)));
        }
      }
      if constexpr (!O::kRowsAreLanes) O::put_keys(by_keys + j / O::kDepth * panel + c, ds);
    }
  }
}

template <class V, class O, class E>
void backward_items(const AttentionBackward<E>& call, int64_t begin, int64_t end) {
  using Arithmetic = typename O::Arithmetic;
  const AttentionShape& shape = call.shape;
  const int64_t dim = shape.dim, width = round_up(dim, V::kWidth), row = O::row_words(dim), columns = width / V::kWidth;
  const int64_t wide = shape.queries < kBackwardPanel ? round_up(shape.queries, V::kWidth) : kBackwardPanel;
  const int64_t block = shape.keys < kBlock ? shape.keys : kBlock;
  const int64_t longest = longest_loop<O>(dim, block, wide);
  const int64_t rows = 2 * shape.keys + 3 * shape.queries;
  const int64_t group = Ahead::heads_of_group<E>(rows, dim, shape.heads, call.ahead);
  const int64_t for_ahead = Ahead::floats<E>(rows, dim, group, call.ahead, longest);
  Scratch scratch(shape.keys * (2 * row + 3 * width) + wide * (2 * dim + 4 * width + 3 * block + 2) +
                  2 * V::kFew * row + 4 * shape.keys + for_ahead);
  Walk walk(shape, call.mask, reinterpret_cast<int64_t*>(scratch.take(2 * shape.keys)));
  Walk coming(shape, call.mask, reinterpret_cast<int64_t*>(scratch.take(2 * shape.keys)));
  float* keys = scratch.take(shape.keys * row);
  float* values = scratch.take(shape.keys * row);
  float* key_lanes = O::kRowsAreLanes ? keys : scratch.take(words<O>(shape.keys) * width);
  float* grad_keys = scratch.take(shape.keys * width);
  float* grad_values = scratch.take(shape.keys * width);
  float* queries = scratch.take(wide * width);  // lanes
  float* queries_t = scratch.take(words<O>(dim) * wide);
  float* last_queries = scratch.take(V::kFew * row);  // those that queries_t leaves out
  float* grads = scratch.take(wide * width);          // dO, lanes
  float* grads_t = scratch.take(words<O>(dim) * wide);
  float* last_grads = scratch.take(V::kFew * row);
  float* grad_queries = scratch.take(wide * width);
  float* scores = scratch.take(block * wide);
  float* slopes = scratch.take(block * wide);
  float* slopes_by_keys = O::kRowsAreLanes ? slopes : scratch.take(words<O>(block) * wide);
  float* lse = scratch.take(wide);
  float* delta = scratch.take(wide);
  Ahead ahead(scratch.take(for_ahead), group, call.ahead, longest);

  const float one = 1.0f;

  // Tokens as lanes and transposed, the last ones as rows; grad_queries is free until the last product.
  const auto pack_both = [&](const Rows<const E>& rows, float* lanes, float* transposed, float* last, int64_t panel) {
    const int64_t few = few_of<V>(rows.count);
    pack_transposed_by_rows<V, O>(rows, rows.count - few, O::kRowsAreLanes ? lanes : grad_queries, transposed, panel);
    if (few > 0) pack_few<O, V>(rows, few, last);
    if constexpr (!O::kRowsAreLanes) O::pack_lanes(rows, lanes);
  };

  for (int64_t item = begin; item < end; ++item) {
    walk.go_to(item);
    const bool in_blocks = walk.count() > kBlock;
    const int64_t steps = steps_of_products<V, O>(2, 3, shape.queries, walk.count(), dim);
    if (in_blocks)
      look_ahead(ahead, coming, item, end, steps, call.k, call.v, call.q, call.grad_out, call.out);
    else
      look_ahead(ahead, coming, item, end, steps, call.k, call.v, call.q, call.grad_out);
    walk.zero_invalid_keys(call.grad_k);
    walk.zero_invalid_keys(call.grad_v);
    if (walk.count() == 0 || shape.queries == 0) {  // nothing attends to anything
      zero(walk.queries(call.grad_q));
      zero(walk.keys(call.grad_k));
      zero(walk.keys(call.grad_v));
      continue;
    }
    O::pack_rows(walk.keys(call.k), keys);
    O::pack_rows(walk.keys(call.v), values);
    if constexpr (!O::kRowsAreLanes) O::pack_lanes(walk.keys(call.k), key_lanes);
    const Results<V, E> to_k(walk.keys(call.grad_k), &shape.scale, 0, call.past_caches);
    const Results<V, E> to_v(walk.keys(call.grad_v), &one, 0, call.past_caches);
    for (int64_t first = 0, length; first < shape.queries; first += length) {
      length = next_part(shape.queries - first, kBackwardPanel, V::kWidth);
      const int64_t panel = round_up(length, V::kWidth), depth = words<O>(length);
      const Results<V, E> to_q(walk.queries(call.grad_q, first, length), &shape.scale, 0, call.past_caches);
      const auto grad_out = walk.queries(call.grad_out, first, length);
      pack_both(walk.queries(call.q, first, length), queries, queries_t, last_queries, panel);
      pack_both(grad_out, grads, grads_t, last_grads, panel);
      if (in_blocks) dot_rows<V>(grad_out, walk.queries(call.out, first, length), delta);
      for (int64_t i = 0; i < length; ++i) lse[i] = call.lse[item * shape.queries + first + i];
      for (int64_t i = length; i < panel; ++i) lse[i] = delta[i] = 0.0f;
      const bool natural = needs_natural<V>(in_blocks, call.bias.data != nullptr) || any_large<V>(lse, panel, 1.0f);
      for (int64_t key = 0, count; key < walk.count(); key += count) {
        count = next_part(walk.count() - key, kBlock, O::kDepth);
        const float *k = keys + key * row, *v = values + key * row, *lanes = key_lanes + words<O>(key) * width;
        make_scores<O>(count, dim, k, queries_t, last_queries, length, Matrix<Arithmetic>{scores, panel, false}, ahead);
        make_scores<O>(count, dim, v, grads_t, last_grads, length, Matrix<Arithmetic>{slopes, panel, false}, ahead);
        const float scale = add_bias<V>(scores, count, panel, shape.scale, block_of(call.bias, walk, key, first, length));
        const auto grad_bias = block_of(call.grad_bias, walk, key, first, length);
        const auto gradient = natural ? softmax_gradient<V, O, true> : softmax_gradient<V, O, false>;
        gradient(scores, slopes, slopes_by_keys, count, panel, scale, lse, in_blocks ? delta : nullptr, grad_bias);
        float *grad_k = grad_keys + key * width, *grad_v = grad_values + key * width;
        const bool last_panel = first + length == shape.queries, last_block = key + count == walk.count();
        multiply_into<Arithmetic, Layout::kRows>({count, columns, depth, scores, panel, grads, width}, grad_v, first > 0,
                                                 last_panel, to_v.from(key, 0), ahead);
        multiply_into<Arithmetic, Layout::kRows>({count, columns, depth, slopes, panel, queries, width}, grad_k, first > 0,
                                                 last_panel, to_k.from(key, 0), ahead);
        multiply_into<Arithmetic, Layout::kColumns>({length, columns, words<O>(count), slopes_by_keys, panel, lanes, width},
                                                    grad_queries, key > 0, last_block, to_q, ahead);
      }
    }
  }
  if (call.past_caches) V::finish_streams();
}

template <class V, class O, class E>
constexpr KernelPair<E> kernel_pair() {
  return {forward_items<V, O, E>, backward_items<V, O, E>};
}

template <class V>
constexpr AttentionKernels attention_kernels() {
  return {kernel_pair<V, Floats<V>, float>(), kernel_pair<V, Floats<V>, BFloat16>(), kernel_pair<V, Floats<V>, Float16>()};
}

}  // namespace
}  // namespace eokit

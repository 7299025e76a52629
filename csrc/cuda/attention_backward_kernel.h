// Attention backward on tensor cores, one block a head of a sequence: a warp holds dK and dV of 16 or 32 keys in
// registers, queries go by in blocks of kQueries.
//
//   P^T = exp(scale K Q^T + bias^T - lse),  dP^T = V dO^T,  dS^T = P^T (dP^T - delta),  delta = rowsum(dO out)
//   dV = P^T dO,  dK = scale dS^T Q,  dQ = scale dS K,  dbias^T = dS^T summed over the sequences that share it
//
// 1. K and V of the block's keys go to shared memory, lse and delta of all queries too.
// 2. Per block of queries, while the next one is copied: each warp makes P^T and dS^T of its keys, adds to its dV and dK,
//    and puts dS^T, rounded, into shared memory.
// 3. After a barrier the warps share out dQ of these queries, which is complete over the keys.
// Where registers or shared memory cannot hold all keys there are several passes over the queries
// (attention_backward_plan.h), and dQ goes on from where the pass before left it, by the same thread. Nothing is added by
// two threads: no atomics, the same bits always.
#pragma once

#include <cmath>

#include "attention_backward_plan.h"

namespace eokit {

// Where one head of one sequence lies. A block keeps it in shared memory: in registers it would be 26 of them.
template <class E>
struct BackwardItem {
  int64_t coordinates[kMaxLeading];
  const E *grad_out, *q, *k, *v, *out;
  const bool* mask;
  const float *bias, *lse;
  E *grad_q, *grad_k, *grad_v;
  float *grad_bias, *partial;
};

template <class E>
struct BackwardTiles {
  float *lse, *delta;  // of all queries
  E *k, *v;            // of the keys of a pass
  E* queries;          // two of {Q, dO}
  E* slopes;           // dS^T of a block of queries
};

template <class E>
EOKIT_DEVICE void find_item(BackwardItem<E>& at, const AttentionBackward<E>& call, int64_t sequence, int head, int64_t part,
                            int width) {
  static_assert(sizeof(BackwardItem<E>) <= kBackwardHeader);
  const int count = call.shape.leading.count;
  const int64_t item = sequence * call.shape.heads + head;
  const auto in = [&](const auto& x) { return x.at(at.coordinates, count) + head * x.head; };
  call.shape.leading.unravel(sequence, at.coordinates);
  at.grad_out = in(call.grad_out), at.q = in(call.q), at.k = in(call.k), at.v = in(call.v), at.out = in(call.out);
  at.mask = call.mask.data == nullptr ? nullptr : call.mask.at(at.coordinates, count);
  at.bias = call.bias.data == nullptr ? nullptr : in(call.bias);
  at.lse = call.lse + item * call.shape.queries;
  at.grad_q = in(call.grad_q), at.grad_k = in(call.grad_k), at.grad_v = in(call.grad_v);
  at.grad_bias = call.grad_bias.data == nullptr ? nullptr : in(call.grad_bias) + part * call.part_stride;
  at.partial = call.partial == nullptr ? nullptr : call.partial + item * call.shape.queries * width;
}

// lse to base 2 and delta of every query; +infinity and 0 in the rows that fill the last block, so that P is 0 there.
template <class E>
EOKIT_DEVICE void prepare_queries(const AttentionBackward<E>& call, const BackwardItem<E>& at, const BackwardTiles<E>& tiles) {
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
  for (int query = warp; query < query_blocks(call.shape.queries) * kQueries; query += call.warps) {
    const bool real = query < call.shape.queries;
    float delta = 0.0f;
    for (int d = lane; real && d < call.shape.dim; d += kWarp)
      delta += to_float(at.grad_out[query * call.grad_out.row + d]) * to_float(at.out[query * call.out.row + d]);
    for (int distance = 1; distance < kWarp; distance *= 2) delta += shuffle_xor(delta, distance);
    if (lane == 0) {
      tiles.lse[query] = real ? at.lse[query] * kLog2E : INFINITY;
      tiles.delta[query] = delta;
    }
  }
}

// c (16, 8 N) = the 16 rows at `rows` times the 8 N at `columns`, over D.
template <int D, int N, class E>
EOKIT_DEVICE void rows_by_rows(float (&c)[N][4], const E* rows, const E* columns, int lane) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) c[n][e] = 0.0f;
#pragma unroll
  for (int k = 0; k < D / kTile; ++k) {
    uint32_t a[4];
    load_a(a, rows + k * kTile, D + kPad, lane);
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      uint32_t b[4];
      load_b_of_columns(b, columns + n * kTile * (D + kPad) + k * kTile, D + kPad, lane);
      multiply_add_two<E>(c[2 * n], c[2 * n + 1], a, b);
    }
  }
}

// sum (16, D) += x (16, 8 N), rounded, times the 8 N rows at `rows`.
template <int D, int N, class E>
EOKIT_DEVICE void add_product(float (&sum)[D / 8][4], const float (&x)[N][4], const E* rows, int lane) {
#pragma unroll
  for (int k = 0; k < N / 2; ++k) {
    uint32_t a[4];
    round_to_a<E>(a, x[2 * k], x[2 * k + 1]);
#pragma unroll
    for (int d = 0; d < D / kTile; ++d) {
      uint32_t b[4];
      load_b_of_rows(b, rows + k * kTile * (D + kPad) + d * kTile, D + kPad, lane);
      multiply_add_two<E>(sum[2 * d], sum[2 * d + 1], a, b);
    }
  }
}

// What a warp carries over the queries for 16 of its keys; valid: rows g, g + 8.
template <int D>
struct KeyGradients {
  float k[D / 8][4], v[D / 8][4];
  bool valid[2];
};

// scores += bias^T to base 2, where the key is valid.
template <int N, class E>
EOKIT_DEVICE void add_bias(float (&p)[N][4], const AttentionBackward<E>& call, const float* bias,
                           const bool (&valid)[2], int key, int query, int lane) {
  const int row = static_cast<int>(call.bias.row);
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int j = key + row_of(lane) + e / 2 * 8, i = query + n * 8 + column_of(lane) + e % 2;
      if (valid[e / 2] && i < call.shape.queries) p[n][e] += kLog2E * bias[j * row + i];
    }
    keep_order();
  }
}

// K Q^T becomes P^T: rows are keys from `key` on, columns queries from `query` on.
template <int N, class E>
EOKIT_DEVICE void weigh(float (&p)[N][4], const AttentionBackward<E>& call, const BackwardItem<E>& at,
                        const float* lse, const bool (&valid)[2], int key, int query, int lane) {
  const float scale = call.shape.scale * kLog2E;
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) p[n][e] *= scale;
  if (at.bias != nullptr) add_bias(p, call, at.bias, valid, key, query, lane);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      p[n][e] = valid[e / 2] ? power_of_two(p[n][e] - lse[query + n * 8 + column_of(lane) + e % 2]) : 0.0f;
}

// dP^T becomes dS^T = P^T (dP^T - delta).
template <int N>
EOKIT_DEVICE void slope(float (&s)[N][4], const float (&p)[N][4], const float* delta, int query, int lane) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = p[n][e] * (s[n][e] - delta[query + n * 8 + column_of(lane) + e % 2]);
}

template <int N, class E>
EOKIT_DEVICE void write_bias_gradient(const float (&s)[N][4], const AttentionBackward<E>& call, float* grad_bias,
                                      int key, int query, int lane) {
  const int row = static_cast<int>(call.grad_bias.row);
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int j = key + row_of(lane) + e / 2 * 8, i = query + n * 8 + column_of(lane) + e % 2;
      if (j >= call.shape.keys || i >= call.shape.queries) continue;
      float* to = grad_bias + j * row + i;
      *to = call.part_stride == 0 ? s[n][e] : *to + s[n][e];
    }
    keep_order();
  }
}

template <int N, class E>
EOKIT_DEVICE void keep_slopes(E* slopes, const float (&s)[N][4], int lane) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      E* to = slopes + (row_of(lane) + h * 8) * kSlopeRow + n * 8 + column_of(lane);
      *reinterpret_cast<uint32_t*>(to) = pack(E{}, s[n][2 * h], s[n][2 * h + 1]);
    }
}

// One warp: 16 keys against one block of queries; in halves, whose P and dS need fewer registers, where dK and dV of all
// the warp's keys need many.
template <int D, int kHeld, class E>
EOKIT_DEVICE void add_queries(KeyGradients<D>& grad, const AttentionBackward<E>& call, const BackwardItem<E>& at,
                              const BackwardTiles<E>& tiles, const E* q, const E* grad_out, int local, int key, int query,
                              int lane) {
  constexpr int kSpan = D * kHeld > 64 ? kTile : kQueries;
#pragma unroll 1
  for (int first = 0; first < kQueries; first += kSpan) {
    float p[kSpan / 8][4], s[kSpan / 8][4];
    const E *q_rows = q + first * (D + kPad), *grad_rows = grad_out + first * (D + kPad);
    rows_by_rows<D>(p, tiles.k + local * (D + kPad), q_rows, lane);
    weigh(p, call, at, tiles.lse, grad.valid, key, query + first, lane);
    rows_by_rows<D>(s, tiles.v + local * (D + kPad), grad_rows, lane);
    slope(s, p, tiles.delta, query + first, lane);
    if (at.grad_bias != nullptr) write_bias_gradient(s, call, at.grad_bias, key, query + first, lane);
    keep_slopes(tiles.slopes + local * kSlopeRow + first, s, lane);
    add_product<D>(grad.v, p, grad_rows, lane);
    add_product<D>(grad.k, s, q_rows, lane);
  }
}

// dQ of a block of queries over the keys of a pass: (16 queries, 16 features) a warp at a time.
template <int D, class E>
EOKIT_DEVICE void write_query_gradient(const AttentionBackward<E>& call, const BackwardItem<E>& at,
                                       const BackwardTiles<E>& tiles, int key_tiles, int pass, int query, int lane, int warp) {
  constexpr int kHigh = kQueries / kTile;
#pragma unroll 1
  for (int unit = warp; unit < kHigh * (D / kTile); unit += call.warps) {
    const int row = unit % kHigh * kTile, d = unit / kHigh * kTile;
    float sum[2][4] = {};
#pragma unroll 1
    for (int j = 0; j < key_tiles; ++j) {
      uint32_t a[4], b[4];
      keep_order();
      load_a_transposed(a, tiles.slopes + j * kTile * kSlopeRow + row, kSlopeRow, lane);
      load_b_of_rows(b, tiles.k + j * kTile * (D + kPad) + d, D + kPad, lane);
      multiply_add_two<E>(sum[0], sum[1], a, b);
    }
#pragma unroll
    for (int e = 0; e < 8; e += 2) {
      const int i = query + row + row_of(lane) + e % 4 / 2 * 8, column = d + e / 4 * 8 + column_of(lane);
      if (i >= call.shape.queries) continue;
      float first = sum[e / 4][e % 4], second = sum[e / 4][e % 4 + 1];
      if (at.partial != nullptr) {
        float* so_far = at.partial + static_cast<int64_t>(i) * D + column;
        if (pass > 0) first += so_far[0], second += so_far[1];
        so_far[0] = first, so_far[1] = second;
      }
      if (pass + 1 == call.passes)
        store_pair(at.grad_q + i * call.grad_q.row, column, call.shape.dim, call.shape.in_pairs, first * call.shape.scale,
                   second * call.shape.scale);
    }
  }
}

template <int D, class E>
EOKIT_DEVICE void write_key_gradient(const float (&grad)[D / 8][4], E* rows, int64_t row, float factor, int key,
                                     const AttentionShape& shape, int lane) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int j = key + row_of(lane) + h * 8;
    if (j >= shape.keys) continue;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      store_pair(rows + j * row, n * 8 + column_of(lane), shape.dim, shape.in_pairs, grad[n][2 * h] * factor,
                 grad[n][2 * h + 1] * factor);
  }
}

template <int D>
EOKIT_DEVICE void start(KeyGradients<D>& grad, const bool* mask, int64_t mask_row, int key, int keys, int lane) {
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) grad.k[n][e] = grad.v[n][e] = 0.0f;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int j = key + row_of(lane) + h * 8;
    grad.valid[h] = j < keys && (mask == nullptr || mask[j * mask_row]);
  }
}

// The keys from first_key on, as many as the block's warps hold: kHeld tiles each.
template <int D, int kHeld, class E>
EOKIT_DEVICE void backward_pass(const AttentionBackward<E>& call, const BackwardItem<E>& at, const BackwardTiles<E>& tiles,
                                int pass) {
  const AttentionShape& shape = call.shape;
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
  const int held = call.warps * kHeld * kTile, first_key = pass * held, block_size = kQueries * (D + kPad);
  const int blocks = query_blocks(shape.queries), key_tiles = tiles_of(smaller(held, shape.keys - first_key));
  const auto start_copies = [&](int block) {
    const int64_t first = block * kQueries;
    E* to = tiles.queries + block % 2 * 2 * block_size;
    const int left = shape.queries - static_cast<int>(first);
    StagedRows<E> from{at.q + first * call.q.row, call.q.row, 0, left, 1, shape.dim, nullptr, 0};
    stage<D>(to, from, kQueries, shape.bytes);
    from.data = at.grad_out + first * call.grad_out.row, from.row = call.grad_out.row;
    stage<D>(to + block_size, from, kQueries, shape.bytes);
    commit_copies();
  };

  const bool* valid = at.mask == nullptr ? nullptr : at.mask + first_key * call.mask.row;
  StagedRows<E> from{at.k + first_key * call.k.row, call.k.row, 0, shape.keys - first_key, 1, shape.dim, valid, call.mask.row};
  stage<D>(tiles.k, from, key_tiles * kTile, shape.bytes);
  from.data = at.v + first_key * call.v.row, from.row = call.v.row;
  stage<D>(tiles.v, from, key_tiles * kTile, shape.bytes);
  start_copies(0);
  if (pass == 0) prepare_queries(call, at, tiles);

  KeyGradients<D> grads[kHeld];
#pragma unroll
  for (int t = 0; t < kHeld; ++t)
    start(grads[t], at.mask, call.mask.row, first_key + (warp * kHeld + t) * kTile, shape.keys, lane);
  for (int block = 0; block < blocks; ++block) {
    wait_for_copies(0);
    sync_block();  // the copies of all threads are there, and the other half of `queries` and `slopes` are free
    if (block + 1 < blocks) start_copies(block + 1);
    const E* q = tiles.queries + block % 2 * 2 * block_size;
#pragma unroll
    for (int t = 0; t < kHeld; ++t) {
      const int local = (warp * kHeld + t) * kTile;
      if (local < key_tiles * kTile)
        add_queries<D, kHeld>(grads[t], call, at, tiles, q, q + block_size, local, first_key + local, block * kQueries, lane);
    }
    sync_block();  // slopes are there
    write_query_gradient<D>(call, at, tiles, key_tiles, pass, block * kQueries, lane, warp);
  }
#pragma unroll
  for (int t = 0; t < kHeld; ++t) {
    const int key = first_key + (warp * kHeld + t) * kTile;
    write_key_gradient<D>(grads[t].k, at.grad_k, call.grad_k.row, shape.scale, key, shape, lane);
    write_key_gradient<D>(grads[t].v, at.grad_v, call.grad_v.row, 1.0f, key, shape, lane);
  }
}

// A block: the items of its part, one after another; one item unless a bias gradient is shared.
template <int D, int kHeld, class E>
EOKIT_DEVICE void attention_backward_block(const AttentionBackward<E>& call, char* shared) {
  const AttentionShape& shape = call.shape;
  const int rows = query_blocks(shape.queries) * kQueries, held = call.warps * kHeld * kTile;
  BackwardItem<E>& item = *reinterpret_cast<BackwardItem<E>*>(shared);
  BackwardTiles<E> tiles;
  tiles.lse = reinterpret_cast<float*>(shared + kBackwardHeader);
  tiles.delta = tiles.lse + rows;
  tiles.k = reinterpret_cast<E*>(tiles.delta + rows);
  tiles.v = tiles.k + held * (D + kPad);
  tiles.queries = tiles.v + held * (D + kPad);
  tiles.slopes = tiles.queries + 4 * kQueries * (D + kPad);

  const int blocks_of_part = call.heads_together ? 1 : shape.heads;
  const int64_t part = block_index() / blocks_of_part;
  const int head = static_cast<int>(block_index() % blocks_of_part), heads = call.heads_together ? shape.heads : 1;
  const int64_t until = (part + 1) * call.sequences / call.parts;
  for (int64_t sequence = part * call.sequences / call.parts; sequence < until; ++sequence)
    for (int h = head; h < head + heads; ++h)
      for (int pass = 0; pass < call.passes; ++pass) {
        sync_block();  // nothing in shared memory is in use any more
        if (thread_index() == 0 && pass == 0) find_item(item, call, sequence, h, part, D);
        sync_block();
        backward_pass<D, kHeld>(call, item, tiles, pass);
      }
}

}  // namespace eokit

// Attention forward on tensor cores: a warp holds 16 queries of one head, keys go by in blocks of kKeys.
//
//   S = scale Q K^T + bias,  P = exp(S - max),  out = P V / sum                      log-sum-exp = max + log(sum)
//
// 1. The block's threads start copies of keys and values to shared memory, several heads side by side. All blocks of
//    keys stay there where they fit; else `stages` of them go round.
// 2. A warp loads its Q from device memory once, as operands of products.
// 3. Per block of keys: S on tensor cores, the running maximum, P in registers, P V on tensor cores. Only multiples of 16
//    keys are computed.
// Exponents are to base 2: scale and bias are multiplied by log2(e) once.
#pragma once

#include <cmath>

#include "attention.h"

namespace eokit {

constexpr int kKeys = 64;

EOKIT_INLINE constexpr int key_blocks(int keys) { return (keys + kKeys - 1) / kKeys; }
EOKIT_INLINE constexpr int rows_staged(int keys) { return smaller(kKeys, tiles_of(keys) * kTile); }

// What a warp carries over the blocks of keys for its 16 queries; the second index of maximum and sum: rows g, g + 8.
template <int D>
struct Running {
  float out[D / 8][4];
  float maximum[2], sum[2];
};

template <int D>
EOKIT_DEVICE void start(Running<D>& state) {
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) state.out[n][e] = 0.0f;
#pragma unroll
  for (int h = 0; h < 2; ++h) state.maximum[h] = -INFINITY, state.sum[h] = 0.0f;
}

template <int D, class E>
EOKIT_DEVICE void load_queries(uint32_t (&q)[D / kTile][4], const E* rows, int64_t row, int first,
                               const AttentionShape& shape, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = first + row_of(lane) + half * 8;
    const int dim = query < shape.queries ? shape.dim : 0;
    const E* at = rows + (query < shape.queries ? query * row : 0);
#pragma unroll
    for (int k = 0; k < D / kTile; ++k) {
      q[k][half] = load_pair(at, k * kTile + column_of(lane), dim, shape.in_pairs);
      q[k][half + 2] = load_pair(at, k * kTile + column_of(lane) + 8, dim, shape.in_pairs);
    }
  }
}

// Bit i: whether key first + i is there and valid; the same in every lane.
EOKIT_DEVICE uint32_t valid_keys(const bool* mask, int64_t row, int first, int keys, int lane) {
  const int key = first + lane;
  return ballot(key < keys && (mask == nullptr || mask[key * row]));
}

EOKIT_INLINE bool is_set(uint32_t low, uint32_t high, int key) { return ((key < 32 ? low : high) >> (key % 32) & 1u) != 0; }

// s (16 queries, kKeys) = Q K^T over the first `tiles` tiles of keys.
template <int D, class E>
EOKIT_DEVICE void score(float (&s)[kKeys / 8][4], const uint32_t (&q)[D / kTile][4], const E* keys, int tiles, int lane) {
#pragma unroll
  for (int j = 0; j < kKeys / kTile; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) s[2 * j][e] = s[2 * j + 1][e] = 0.0f;
    if (j >= tiles) continue;
#pragma unroll
    for (int k = 0; k < D / kTile; ++k) {
      uint32_t b[4];
      load_b_of_columns(b, keys + j * kTile * (D + kPad) + k * kTile, D + kPad, lane);
      multiply_add_two<E>(s[2 * j], s[2 * j + 1], q[k], b);
    }
  }
}

// Scores to base 2: scaled, with their bias, -infinity where the key is not valid. `bias` begins at the first key.
EOKIT_DEVICE void finish_scores(float (&s)[kKeys / 8][4], const float* bias, int bias_row, int first_query,
                                const AttentionShape& shape, uint32_t low, uint32_t high, int lane) {
  const float scale = shape.scale * kLog2E;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] *= scale;
  if (bias != nullptr) {
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = n * 8 + column_of(lane) + e % 2, query = first_query + row_of(lane) + e / 2 * 8;
        if (is_set(low, high, key) && query < shape.queries) s[n][e] += kLog2E * bias[key * bias_row + query];
      }
      keep_order();
    }
  }
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (!is_set(low, high, n * 8 + column_of(lane) + e % 2)) s[n][e] = -INFINITY;
}

// The largest over the four lanes that share a row, and their sum.
EOKIT_DEVICE float largest_of_row(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}
EOKIT_DEVICE float sum_of_row(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}

// Scores become P; earlier results fade where the maximum rises. Sums stay one per lane until the end.
template <int D>
EOKIT_DEVICE void soften(float (&s)[kKeys / 8][4], Running<D>& state) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float highest = state.maximum[h];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    highest = largest_of_row(highest);
    const float shift = highest == -INFINITY ? 0.0f : highest;  // no valid key so far: P is 0, not NaN
    const float fading = power_of_two(state.maximum[h] - shift);
    state.maximum[h] = highest;
    state.sum[h] *= fading;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) state.out[n][2 * h] *= fading, state.out[n][2 * h + 1] *= fading;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int e = 2 * h; e < 2 * h + 2; ++e) {
        s[n][e] = power_of_two(s[n][e] - shift);
        state.sum[h] += s[n][e];
      }
  }
}

// out += P V
template <int D, class E>
EOKIT_DEVICE void add_values(Running<D>& state, const float (&p)[kKeys / 8][4], const E* values, int tiles, int lane) {
#pragma unroll
  for (int j = 0; j < kKeys / kTile; ++j) {
    if (j >= tiles) continue;
    uint32_t a[4];
    round_to_a<E>(a, p[2 * j], p[2 * j + 1]);
#pragma unroll
    for (int d = 0; d < D / kTile; ++d) {
      uint32_t b[4];
      load_b_of_rows(b, values + j * kTile * (D + kPad) + d * kTile, D + kPad, lane);
      multiply_add_two<E>(state.out[2 * d], state.out[2 * d + 1], a, b);
    }
  }
}

template <int D, class E>
EOKIT_DEVICE void write_results(const Running<D>& state, E* out, int64_t row, float* lse, int first,
                                const AttentionShape& shape, int lane) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = first + row_of(lane) + h * 8;
    const float sum = sum_of_row(state.sum[h]), factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    if (query >= shape.queries) continue;
    if (lane % 4 == 0) lse[query] = sum == 0.0f ? INFINITY : state.maximum[h] * kLn2 + log_of(sum);
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      store_pair(out + query * row, n * 8 + column_of(lane), shape.dim, shape.in_pairs, state.out[n][2 * h] * factor,
                 state.out[n][2 * h + 1] * factor);
  }
}

// A block: call.heads adjacent heads of one sequence, call.warps warps each.
template <int D, class E>
EOKIT_DEVICE void attention_forward_block(const AttentionForward<E>& call, char* shared) {
  const AttentionShape& shape = call.shape;
  const int64_t groups = (shape.heads + call.heads - 1) / call.heads;
  const int64_t sequence = block_index() / groups;
  const int first_head = static_cast<int>(block_index() % groups) * call.heads;
  int64_t* coordinates = reinterpret_cast<int64_t*>(shared);
  if (thread_index() == 0) shape.leading.unravel(sequence, coordinates);
  sync_block();
  const int leading = shape.leading.count;

  const int rows = rows_staged(shape.keys), blocks = key_blocks(shape.keys), tile_size = rows * (D + kPad);
  const int stage_size = 2 * call.heads * tile_size;  // keys of all heads, then values
  E* tiles = reinterpret_cast<E*>(shared + kHeader);
  const int heads = smaller(call.heads, shape.heads - first_head);
  const E* keys = call.k.at(coordinates, leading) + first_head * call.k.head;
  const E* values = call.v.at(coordinates, leading) + first_head * call.v.head;
  const bool* mask = call.mask.data == nullptr ? nullptr : call.mask.at(coordinates, leading);
  const auto start_copies = [&](int load) {
    const int first = load % blocks * kKeys;
    const bool* valid = mask == nullptr ? nullptr : mask + first * call.mask.row;
    E* to = tiles + load % call.stages * stage_size;
    StagedRows<E> from{keys + first * call.k.row, call.k.row, call.k.head, shape.keys - first,
                       heads, shape.dim, valid, call.mask.row};
    stage<D>(to, from, rows, shape.bytes);
    from.data = values + first * call.v.row, from.row = call.v.row, from.head = call.v.head;
    stage<D>(to + call.heads * tile_size, from, rows, shape.bytes);
    commit_copies();
  };

  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
  const int mine = warp / call.warps, head = first_head + mine;
  const bool working = mine < heads;
  const int query_tiles = tiles_of(shape.queries), rounds = (query_tiles + call.warps - 1) / call.warps;
  const bool resident = call.stages >= blocks;
  const int loads = resident ? blocks : rounds * blocks;
  int started = 0;
  for (; started < call.stages && started < loads; ++started) start_copies(started);

  const int64_t item = sequence * shape.heads + head;
  const E* queries = call.q.at(coordinates, leading) + head * call.q.head;
  const float* bias = call.bias.data == nullptr ? nullptr : call.bias.at(coordinates, leading) + head * call.bias.head;
  for (int round = 0; round < rounds; ++round) {
    const int tile = warp % call.warps + round * call.warps, first_query = tile * kTile;
    const bool active = working && tile < query_tiles;
    uint32_t q[D / kTile][4];
    Running<D> state;
    start(state);
    if (active) load_queries<D>(q, queries, call.q.row, first_query, shape, lane);
    for (int block = 0; block < blocks; ++block) {
      const int load = round * blocks + block, first_key = block * kKeys;
      if (load < loads) {
        wait_for_copies(started - 1 - load);
        sync_block();
      }
      if (active) {
        const E* at = tiles + load % call.stages * stage_size + mine * tile_size;
        const int key_tiles = tiles_of(smaller(kKeys, shape.keys - first_key));
        float s[kKeys / 8][4];
        score<D>(s, q, at, key_tiles, lane);
        const uint32_t low = valid_keys(mask, call.mask.row, first_key, shape.keys, lane);
        const uint32_t high = valid_keys(mask, call.mask.row, first_key + 32, shape.keys, lane);
        const float* bias_here = bias == nullptr ? nullptr : bias + first_key * call.bias.row;
        finish_scores(s, bias_here, static_cast<int>(call.bias.row), first_query, shape, low, high, lane);
        soften(s, state);
        add_values(state, s, at + call.heads * tile_size, key_tiles, lane);
      }
      if (!resident) {
        sync_block();  // every warp is done with the stage that is written next
        if (started < loads) start_copies(started++);
      }
    }
    if (active) {
      E* out = call.out.at(coordinates, leading) + head * call.out.head;
      write_results(state, out, call.out.row, call.lse + item * shape.queries, first_query, shape, lane);
    }
  }
}

}  // namespace eokit

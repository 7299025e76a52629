// How the attention backward is split into passes over the keys, so that a block's tiles fit into the shared memory of the
// GPU. Plain arithmetic of the host, without CUDA: tests/ops/emulate_cuda.cpp goes through all of it.
#pragma once

#include "attention.h"

namespace eokit {

constexpr int kQueries = 32;                // of a block of queries
constexpr int kBackwardHeader = 256;        // bytes at the start of shared memory: BackwardItem
constexpr int kSlopeRow = kQueries + kPad;  // of dS^T in shared memory
constexpr int kBackwardWarps = 8;           // in a block at most

EOKIT_INLINE constexpr int query_blocks(int queries) { return (queries + kQueries - 1) / kQueries; }

// Shared memory of a block, in bytes; `keys` of a pass, width: D of the kernel. In the order in which it lies: header, lse
// and delta of all queries, K, V, two blocks of Q and dO, dS^T.
EOKIT_INLINE constexpr int64_t backward_bytes(int width, int queries, int keys) {
  const int64_t rows = int64_t{query_blocks(queries)} * kQueries;
  return kBackwardHeader + 8 * rows +
         2 * (int64_t{2} * (keys + 2 * kQueries) * (width + kPad) + int64_t{keys} * kSlopeRow);
}

// Tiles of 16 keys whose dK and dV fit into the registers of a warp.
EOKIT_INLINE constexpr int most_held(int width) { return width <= 64 ? 2 : 1; }

struct BackwardPlan {
  int passes = 0;  // over the keys; 0: one warp's keys do not fit into the shared memory either
  int warps = 1;   // in a block
  int held = 1;    // tiles of keys a warp: a pass takes warps * held
  int64_t bytes = 0;
};

// The fewest passes whose keys fit into the registers of eight warps and into `shared` bytes: every pass reads all queries
// again. A pass is spread over as many warps as it has tiles, before a warp holds two of them. GPUs have 163 (sm_80, 87),
// 227 (sm_90, 100) or 99 KiB (sm_86, 89, 120) for a block: 256 keys of 64 features, 112 KiB, are one pass or two.
inline BackwardPlan plan_backward(int width, int queries, int keys, int64_t shared) {
  const int tiles = tiles_of(keys), most = kBackwardWarps * most_held(width);
  for (int limit = smaller(tiles, most); limit > 0; --limit) {
    const int passes = (tiles + limit - 1) / limit, share = (tiles + passes - 1) / passes;  // no pass is nearly empty
    const int held = share > kBackwardWarps ? 2 : 1, warps = (share + held - 1) / held, of_pass = warps * held;
    const int64_t bytes = backward_bytes(width, queries, of_pass * kTile);
    if (bytes <= shared) return {(tiles + of_pass - 1) / of_pass, warps, held, bytes};
  }
  return {};
}

}  // namespace eokit

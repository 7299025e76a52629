"""The attention kernels in Triton; `triton.py` beside this launches them.

A sequence is one (a, b) of two leading dimensions; strides are (a, b, row, head) and the last dimension is contiguous.
Every kernel has its whole grid in x, heads fastest but for tiles: neighbouring programs read neighbouring bytes of a
date, and grid.y and grid.z end at 65,535.

    S = scale q k^T + bias     P = exp(S - lse)     out = P v                      (Lq, Lk), (Lq, Lk), (Lq, D)
    dP = dO v^T     delta = rowsum(dO * out)     dS = P * (dP - delta)
    dq = scale dS k     dk = scale dS^T q     dv = P^T dO     dbias = dS

Scores live in registers as tiles of BLOCK_Q x BLOCK_K, 64 x 128 at most: 256 x 256 spills on every target. Exponents
are of base 2, which is what the hardware has. Row offsets are int64: a series of images passes 2^31 elements.
Strides of the mask and the bias come one by one: they follow the lengths, and Triton compiles a kernel again for
numbers in a tuple that are 1 or multiples of 16. query_class, key_class: the lengths as the tuner tells them apart; no
kernel reads them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from eokit.ops.triton_support import dot, kernel

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _first(strides, a, b, h):
    """Offset of the first row of a head of a sequence."""
    return a * strides[0] + b * strides[1] + h * strides[3]


@triton.jit
def _places(x, rows, stride, HEAD: tl.constexpr, ALIGN: tl.constexpr):
    """(rows, HEAD) addresses; ALIGN says how wide loads may be, and it alone: strides differ from call to call."""
    return tl.multiple_of(x + rows.to(tl.int64)[:, None] * stride + tl.arange(0, HEAD)[None, :], [1, ALIGN])


@triton.jit
def _inside(rows, length, DIM: tl.constexpr, HEAD: tl.constexpr):
    """(rows, HEAD): what exists of a tile. Columns are compared only where DIM was padded, to keep loads wide."""
    inside = (rows < length)[:, None]
    if DIM != HEAD:
        inside = inside & (tl.arange(0, HEAD) < DIM)[None, :]
    return inside


@triton.jit
def _load(x, rows, length, stride, DIM: tl.constexpr, HEAD: tl.constexpr, ALIGN: tl.constexpr):
    """Rows (rows, HEAD) of a head, 0 where there is nothing."""
    return tl.load(_places(x, rows, stride, HEAD, ALIGN), mask=_inside(rows, length, DIM, HEAD), other=0.0)


@triton.jit
def _store(x, tile, rows, length, stride, DIM: tl.constexpr, HEAD: tl.constexpr, ALIGN: tl.constexpr):
    where = _places(x, rows, stride, HEAD, ALIGN)
    tl.store(where, tile.to(x.dtype.element_ty), mask=_inside(rows, length, DIM, HEAD))


@triton.jit
def _valid(key_mask, mask_strides, a, b, keys, lk):
    """(keys): whether a key exists and may be attended to."""
    valid = keys < lk
    if key_mask is not None:
        here = key_mask + a * mask_strides[0] + b * mask_strides[1] + keys.to(tl.int64) * mask_strides[2]
        valid = valid & (tl.load(here, mask=valid, other=0) != 0)
    return valid


@triton.jit
def _bias_offsets(rows, keys, lq):
    """(rows, keys) into a head's bias (Lk, Lq), or (keys, rows) from rows and keys exchanged in shape by the caller."""
    return keys.to(tl.int64) * lq + rows


@kernel
def attention_forward_kernel(
    q, k, v, key_mask, bias_t, out, lse,
    q_strides, k_strides, v_strides, out_strides,
    mask_outer, mask_inner, mask_key, bias_outer, bias_inner, bias_head,
    inner, heads, lq, lk, scale, query_class, key_class,
    DIM: tl.constexpr, HEAD: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Out (Lq, D) and lse (Lq) for BLOCK_Q queries of one head of one sequence, over its keys in steps of BLOCK_K."""
    # 1. This program's head, sequence and queries.
    mask_strides = (mask_outer, mask_inner, mask_key)
    bias_strides = (bias_outer, bias_inner, 0, bias_head)
    tiles = tl.cdiv(lq, BLOCK_Q)
    item = (tl.program_id(0) // tiles).to(tl.int64)
    h, a, b = item % heads, item // heads // inner, item // heads % inner
    rows = tl.program_id(0) % tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    q_tile = _load(q + _first(q_strides, a, b, h), rows, lq, q_strides[2], DIM, HEAD, ALIGN)
    k += _first(k_strides, a, b, h)
    v += _first(v_strides, a, b, h)
    # 2. Online softmax: `top` is the greatest score so far, `total` and `sums` are relative to it.
    top = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    sums = tl.zeros((BLOCK_Q, HEAD), tl.float32)
    for start in range(0, lk, BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        k_tile = _load(k, keys, lk, k_strides[2], DIM, HEAD, ALIGN)
        scores = dot(q_tile, tl.trans(k_tile), PRECISION, UPCAST) * (scale * LOG2E)  # (BLOCK_Q, BLOCK_K), base 2
        if bias_t is not None:
            bias = bias_t + _first(bias_strides, a, b, h) + _bias_offsets(rows[:, None], keys[None, :], lq)
            exists = (rows < lq)[:, None] & (keys < lk)[None, :]
            scores += tl.load(bias, mask=exists, other=0.0) * LOG2E
        valid = _valid(key_mask, mask_strides, a, b, keys, lk)
        scores = tl.where(valid[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)  # no key so far: -inf - 0, not -inf + inf
        weights = tl.exp2(scores - shift[:, None])
        fade = tl.exp2(top - shift)
        total = total * fade + tl.sum(weights, 1)
        v_tile = _load(v, keys, lk, v_strides[2], DIM, HEAD, ALIGN)
        sums = sums * fade[:, None] + dot(weights.to(v_tile.dtype), v_tile, PRECISION, UPCAST)
        top = new_top
    # 3. A row without keys gives 0 and +inf, so that exp(S - lse) is 0 in the backward pass.
    some = total > 0.0
    result = sums / tl.where(some, total, 1.0)[:, None]
    _store(out + _first(out_strides, a, b, h), result, rows, lq, out_strides[2], DIM, HEAD, ALIGN)
    log_sum = tl.where(some, (top + tl.log2(tl.where(some, total, 1.0))) * LN2, float("inf"))
    tl.store(lse + item * lq + rows, log_sum, mask=rows < lq)


@triton.jit
def _delta(grad_tile, out_tile):
    return tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1)


@triton.jit
def _grad_queries(
    grad_out, q, k, v, key_mask, bias_t, out, lse, grad_q,
    grad_out_stride, q_stride, k_strides, v_stride, mask_strides, out_stride, grad_q_stride,
    a, b, tile, lq, lk, scale,
    DIM: tl.constexpr, HEAD: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of queries, over all keys."""
    rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    q_tile = _load(q, rows, lq, q_stride, DIM, HEAD, ALIGN)
    grad_tile = _load(grad_out, rows, lq, grad_out_stride, DIM, HEAD, ALIGN)
    delta = _delta(grad_tile, _load(out, rows, lq, out_stride, DIM, HEAD, ALIGN))
    log_sum = tl.load(lse + rows, mask=rows < lq, other=float("inf")) * LOG2E
    sums = tl.zeros((BLOCK_Q, HEAD), tl.float32)
    for start in range(0, lk, BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        k_tile = _load(k, keys, lk, k_strides[2], DIM, HEAD, ALIGN)
        v_tile = _load(v, keys, lk, v_stride, DIM, HEAD, ALIGN)
        scores = dot(q_tile, tl.trans(k_tile), PRECISION, UPCAST) * (scale * LOG2E)
        if bias_t is not None:
            exists = (rows < lq)[:, None] & (keys < lk)[None, :]
            scores += tl.load(bias_t + _bias_offsets(rows[:, None], keys[None, :], lq), mask=exists, other=0.0) * LOG2E
        valid = _valid(key_mask, mask_strides, a, b, keys, lk)
        weights = tl.where(valid[None, :], tl.exp2(scores - log_sum[:, None]), 0.0)
        slopes = weights * (dot(grad_tile, tl.trans(v_tile), PRECISION, UPCAST) - delta[:, None])
        sums += dot(slopes.to(k_tile.dtype), k_tile, PRECISION, UPCAST)
    _store(grad_q, sums * scale, rows, lq, grad_q_stride, DIM, HEAD, ALIGN)


@triton.jit
def _slopes_t(
    k_tile, v_tile, q_tile, grad_tile, bias, valid, log_sum, delta, scale, PRECISION: tl.constexpr, UPCAST: tl.constexpr
):
    """P^T and dS^T, (keys, queries), of one pair of tiles; bias: (keys, queries) or None."""
    scores = dot(k_tile, tl.trans(q_tile), PRECISION, UPCAST) * (scale * LOG2E)
    if bias is not None:
        scores += bias * LOG2E
    weights = tl.where(valid[:, None], tl.exp2(scores - log_sum[None, :]), 0.0)
    slopes = weights * (dot(v_tile, tl.trans(grad_tile), PRECISION, UPCAST) - delta[None, :])
    return weights, slopes


@triton.jit
def _grad_keys(
    grad_out, q, k, v, key_mask, bias_t, out, lse, grad_k, grad_v,
    grad_out_stride, q_stride, k_stride, v_stride, mask_strides, out_stride, grad_k_stride, grad_v_stride,
    a, b, tile, lq, lk, scale,
    DIM: tl.constexpr, HEAD: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of keys and values, over all queries; scores are held transposed."""
    keys = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    valid = _valid(key_mask, mask_strides, a, b, keys, lk)
    k_tile = _load(k, keys, lk, k_stride, DIM, HEAD, ALIGN)
    v_tile = _load(v, keys, lk, v_stride, DIM, HEAD, ALIGN)
    k_sums = tl.zeros((BLOCK_K, HEAD), tl.float32)
    v_sums = tl.zeros((BLOCK_K, HEAD), tl.float32)
    for start in range(0, lq, BLOCK_Q):
        rows = start + tl.arange(0, BLOCK_Q)
        q_tile = _load(q, rows, lq, q_stride, DIM, HEAD, ALIGN)
        grad_tile = _load(grad_out, rows, lq, grad_out_stride, DIM, HEAD, ALIGN)
        # Made again for every tile of keys: out comes from L2, and no program waits for another's delta.
        delta = _delta(grad_tile, _load(out, rows, lq, out_stride, DIM, HEAD, ALIGN))
        log_sum = tl.load(lse + rows, mask=rows < lq, other=float("inf")) * LOG2E
        bias = None
        if bias_t is not None:
            exists = (keys < lk)[:, None] & (rows < lq)[None, :]
            bias = tl.load(bias_t + _bias_offsets(rows[None, :], keys[:, None], lq), mask=exists, other=0.0)
        weights, slopes = _slopes_t(
            k_tile, v_tile, q_tile, grad_tile, bias, valid, log_sum, delta, scale, PRECISION, UPCAST
        )
        v_sums += dot(weights.to(grad_tile.dtype), grad_tile, PRECISION, UPCAST)
        k_sums += dot(slopes.to(q_tile.dtype), q_tile, PRECISION, UPCAST)
    _store(grad_k, k_sums * scale, keys, lk, grad_k_stride, DIM, HEAD, ALIGN)
    _store(grad_v, v_sums, keys, lk, grad_v_stride, DIM, HEAD, ALIGN)


@kernel
def attention_backward_kernel(
    grad_out, q, k, v, key_mask, bias_t, out, lse, grad_q, grad_k, grad_v,
    grad_out_strides, q_strides, k_strides, v_strides, out_strides,
    grad_q_strides, grad_k_strides, grad_v_strides,
    mask_outer, mask_inner, mask_key, bias_outer, bias_inner, bias_head,
    inner, heads, lq, lk, scale, query_class, key_class,
    DIM: tl.constexpr, HEAD: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One tile of dq, or one of dk and dv, of one head of one sequence.

    The programs of a head are neighbours in one launch: what the second kind reads again is still in L2, so that memory
    sees 16 T D bytes in bfloat16 where two launches would move 24. Every element has one writer: no atomics.
    """
    mask_strides = (mask_outer, mask_inner, mask_key)
    bias_strides = (bias_outer, bias_inner, 0, bias_head)
    query_tiles = tl.cdiv(lq, BLOCK_Q)
    tiles = query_tiles + tl.cdiv(lk, BLOCK_K)
    item = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    h, a, b = item % heads, item // heads // inner, item // heads % inner
    grad_out += _first(grad_out_strides, a, b, h)
    q += _first(q_strides, a, b, h)
    k += _first(k_strides, a, b, h)
    v += _first(v_strides, a, b, h)
    out += _first(out_strides, a, b, h)
    lse += item * lq
    if bias_t is not None:
        bias_t += _first(bias_strides, a, b, h)
    if tile < query_tiles:
        _grad_queries(
            grad_out, q, k, v, key_mask, bias_t, out, lse, grad_q + _first(grad_q_strides, a, b, h),
            grad_out_strides[2], q_strides[2], k_strides, v_strides[2], mask_strides, out_strides[2],
            grad_q_strides[2], a, b, tile, lq, lk, scale, DIM, HEAD, ALIGN, PRECISION, UPCAST, BLOCK_Q, BLOCK_K,
        )  # fmt: skip
    else:
        _grad_keys(
            grad_out, q, k, v, key_mask, bias_t, out, lse,
            grad_k + _first(grad_k_strides, a, b, h), grad_v + _first(grad_v_strides, a, b, h),
            grad_out_strides[2], q_strides[2], k_strides[2], v_strides[2], mask_strides, out_strides[2],
            grad_k_strides[2], grad_v_strides[2], a, b, tile - query_tiles, lq, lk, scale,
            DIM, HEAD, ALIGN, PRECISION, UPCAST, BLOCK_Q, BLOCK_K,
        )  # fmt: skip


@kernel
def attention_grad_bias_kernel(
    grad_out, q, k, v, key_mask, bias_t, out, lse, sums,
    grad_out_strides, q_strides, k_strides, v_strides, out_strides,
    mask_outer, mask_inner, mask_key, bias_outer, bias_inner, bias_head,
    own_inner, own_heads, shared, shared_inner, shared_heads, inner, heads, parts, lq, lk,
    scale, query_class, key_class,
    DIM: tl.constexpr, HEAD: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile (keys, queries) of the gradient of one head's bias, summed in order over one part of those that share it.

    Of each of the dimensions (outer, inner, heads) the bias has its own or is shared along it: one of the two sizes is
    1, and an index is the sum of the two; shared: how many share a bias.
    sums: (own outer, own inner, own heads, parts, Lk, Lq).
    """
    # 1. Tile, part and bias of this program; part and tile fastest.
    mask_strides = (mask_outer, mask_inner, mask_key)
    bias_strides = (bias_outer, bias_inner, 0, bias_head)
    row_tiles, key_tiles = tl.cdiv(lq, BLOCK_Q), tl.cdiv(lk, BLOCK_K)
    tile, place = tl.program_id(0) % (row_tiles * key_tiles), tl.program_id(0) // (row_tiles * key_tiles)
    part, own = (place % parts).to(tl.int64), (place // parts).to(tl.int64)
    rows = tile % row_tiles * BLOCK_Q + tl.arange(0, BLOCK_Q)
    keys = tile // row_tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    own_h, own_a, own_b = own % own_heads, own // own_heads // own_inner, own // own_heads % own_inner
    exists = (keys < lk)[:, None] & (rows < lq)[None, :]
    offsets = _bias_offsets(rows[None, :], keys[:, None], lq)
    bias = tl.load(bias_t + _first(bias_strides, own_a, own_b, own_h) + offsets, mask=exists, other=0.0)
    # 2. The items of the part, one after the other.
    total = tl.zeros((BLOCK_K, BLOCK_Q), tl.float32)
    for item in range(part * shared // parts, (part + 1) * shared // parts):
        h = own_h + item % shared_heads
        a, b = own_a + item // shared_heads // shared_inner, own_b + item // shared_heads % shared_inner
        k_tile = _load(k + _first(k_strides, a, b, h), keys, lk, k_strides[2], DIM, HEAD, ALIGN)
        v_tile = _load(v + _first(v_strides, a, b, h), keys, lk, v_strides[2], DIM, HEAD, ALIGN)
        q_tile = _load(q + _first(q_strides, a, b, h), rows, lq, q_strides[2], DIM, HEAD, ALIGN)
        grad_tile = _load(grad_out + _first(grad_out_strides, a, b, h), rows, lq, grad_out_strides[2], DIM, HEAD, ALIGN)
        out_tile = _load(out + _first(out_strides, a, b, h), rows, lq, out_strides[2], DIM, HEAD, ALIGN)
        log_sum = tl.load(lse + ((a * inner + b) * heads + h) * lq + rows, mask=rows < lq, other=float("inf")) * LOG2E
        valid = _valid(key_mask, mask_strides, a, b, keys, lk)
        delta = _delta(grad_tile, out_tile)
        _, slopes = _slopes_t(k_tile, v_tile, q_tile, grad_tile, bias, valid, log_sum, delta, scale, PRECISION, UPCAST)
        total += slopes
    # 3. The parts are added up by torch, in order.
    tl.store(sums + (own * parts + part) * lk * lq + offsets, total, mask=exists)

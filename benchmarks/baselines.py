"""Attention as others compute it, on series x (B, T, N, H, D) in memory: what ours is timed and tested against.

Every function takes q, k, v (B, T, N, H, D), contiguous, an `axis` and a key mask as `eokit.ops.attention` would take
it, and gives the result stored as q is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[..., Tensor]
AXES = ("temporal", "spatial", "joint")


def sequences(x: Tensor, axis: str) -> Tensor:
    """(B, T, N, H, D) -> the sequences along `axis`, (..., L, H, D): a view."""
    if axis == "temporal":
        return x.transpose(1, 2)  # (B, N, T, H, D)
    return x if axis == "spatial" else x.flatten(1, 2)  # (B, T, N, H, D) or (B, T * N, H, D)


def zero_copy(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, axis: str) -> Tensor:
    """scaled_dot_product_attention on views: positions stand beside the heads, or dates in the batch."""
    q4, k4, v4 = (heads_first(x, axis) for x in (q, k, v))
    out = scaled_dot_product_attention(q4, k4, v4, attn_mask=mask_for_heads(key_mask, axis, q.shape[3]))
    return out.transpose(1, 2).reshape(q.shape)


def permuted(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, axis: str) -> Tensor:
    """scaled_dot_product_attention on copies in its own order, as most code does it."""
    q4, k4, v4 = (sequences(x, axis).transpose(-3, -2).flatten(0, -4).contiguous() for x in (q, k, v))  # (S, H, L, D)
    mask = None if key_mask is None else key_mask.flatten(0, -2)[:, None, None]
    out = scaled_dot_product_attention(q4, k4, v4, attn_mask=mask)
    lead = sequences(q, axis).shape[:-3]
    out = out.unflatten(0, lead).transpose(-3, -2)  # (..., L, H, D)
    return (out.transpose(1, 2) if axis == "temporal" else out).reshape(q.shape)


def one_backend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, axis: str) -> Tensor:
    """`zero_copy`, held to one of torch's backends; RuntimeError where it cannot."""
    with sdpa_kernel(backend):
        return zero_copy(q, k, v, key_mask, axis)


def flex(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, axis: str, compiled: bool = True) -> Tensor:
    """torch's flex_attention on the views of `zero_copy`."""
    views = [heads_first(x, axis) for x in (q, k, v)]
    mask = mask_for_heads(key_mask, axis, q.shape[3])
    run = compiled_flex() if compiled else plain_flex()
    if mask is None:
        return run(*views).transpose(1, 2).reshape(q.shape)
    mask = mask.expand(*views[0].shape[:2], 1, mask.shape[-1])

    def score(value: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.where(mask[batch, head, 0, key], value, float("-inf"))

    return run(*views, score_mod=score).transpose(1, 2).reshape(q.shape)


@cache
def compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(plain_flex(), dynamic=False)


def plain_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


def heads_first(x: Tensor, axis: str) -> Tensor:
    """(B, T, N, H, D) -> what SDPA takes, (A, C, L, D), without a copy."""
    merged = {"temporal": (2, 3), "spatial": (0, 1), "joint": (1, 2)}[axis]
    return x.flatten(*merged).transpose(1, 2)


def mask_for_heads(key_mask: Tensor | None, axis: str, heads: int) -> Tensor | None:
    """The key mask (..., L) as SDPA takes it beside `heads_first`: (A, C or 1, 1, L)."""
    if key_mask is None:
        return None
    if axis == "temporal":
        return key_mask.repeat_interleave(heads, 1)[:, :, None]  # (B, N * H, 1, T)
    return key_mask.flatten(0, -2)[:, None, None]


def baselines(device: torch.device) -> dict[str, Attend]:
    """Name -> contender; more of them on a GPU, where torch has several kernels."""
    found: dict[str, Attend] = {"SDPA zero-copy": zero_copy, "SDPA permuted": permuted}
    if device.type == "cuda":
        kernels = {
            "flash": SDPBackend.FLASH_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cuDNN": SDPBackend.CUDNN_ATTENTION,
            "math": SDPBackend.MATH,
        }
        found |= {f"SDPA {name}": partial(one_backend, kernel) for name, kernel in kernels.items()}
        found["flex_attention"] = flex
    return found

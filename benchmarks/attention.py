"""`ops.attention` on series x (B, T, N, H, D) in memory, along dates, positions or both, against torch's attention.

All contenders take the series as stored and give the result stored the same way. Values are random.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eokit.nn.device import pick_device
from eokit.ops import attention
from eokit_bench.baselines import Attend, baselines, sequences
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import PASSES, Case, Prepared, Results, Truth, Work, make_run, passes
from eokit_bench.registry import AttentionSettings

OURS = "eokit"
MOST_FLOPS = {"cpu": 2**40, "cuda": 2**47}
"""Of one forward: some seconds. Joint attention over many dates and positions goes beyond any measure."""
PAIRS_CHECKED = 2**25
"""Of queries and keys in the part that is set against float64: about a second."""
NAMES = ("out", "grad_q", "grad_k", "grad_v", "grad_bias")


@dataclass(frozen=True)
class Shape:
    """One case; q, k and v are (batch, dates, positions, heads, dim). biased: with a bias (heads, L, L) for all."""

    axis: str
    size: tuple[int, int, int, int, int]
    dtype: torch.dtype
    mask_rate: float
    backward: bool
    biased: bool = False

    @property
    def length(self) -> int:
        """Of one sequence."""
        _, dates, positions, _, _ = self.size
        return {"temporal": dates, "spatial": positions, "joint": dates * positions}[self.axis]


def cases(settings: AttentionSettings) -> list[Case]:
    """By dtype, axis and length; forward, then forward + backward."""
    device = pick_device(settings.device)
    found = []
    for dtype, axis, dates, backward in itertools.product(
        settings.dtype, settings.axis, settings.seq_len, passes(settings.backward)
    ):
        size = (settings.batch, dates, settings.positions, settings.heads, settings.head_dim)
        shape = Shape(axis, size, getattr(torch, dtype), settings.mask_rate, backward)
        found.append(make_case(shape, device))
    return found


def make_case(shape: Shape, device: torch.device) -> Case:
    batch, dates, positions, heads, dim = shape.size
    tensors = 12 if shape.backward else 4  # q, k, v, out; then these, their gradients, and out's
    refuse_if_too_large(
        2 * tensors * torch.Size(shape.size).numel() * shape.dtype.itemsize, device, "--seq-len, --positions, --batch"
    )
    forward = 4 * batch * dates * positions * heads * shape.length * dim
    limit = MOST_FLOPS[device.type]
    at: dict[str, Any] = {"axis": shape.axis, "T": dates, "N": positions, "H": heads, "D": dim, "B": batch}
    at |= {"dtype": str(shape.dtype).removeprefix("torch."), "mask_rate": shape.mask_rate}
    at |= {"bias": True} if shape.biased else {}
    return Case(
        at | {"pass": PASSES[shape.backward]},
        tuple(contenders(device)),
        partial(set_up, shape, device),
        lambda contender: work(shape),
        f"{shape.length:,} tokens see each other, {forward / 1e12:.1f} TFLOP a forward; the limit here is"
        f" {limit / 1e12:.1f}: fewer --positions make it smaller"
        if forward > limit
        else None,
    )


def work(shape: Shape) -> Work:
    """Every tensor read or written once, and the log-sum-exp; two products of a forward, five of a backward.

    A masked key needs no work, so only the share that is kept counts.
    """
    *lead, dim = shape.size
    rows = torch.Size(lead).numel()
    product = 2 * rows * shape.length * dim * (1 - shape.mask_rate)
    tensor = rows * dim * shape.dtype.itemsize
    if shape.backward:
        return Work(12 * tensor + 8 * rows, int(7 * product))
    return Work(4 * tensor, int(2 * product))


def ours(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    axis: str,
    backend: str | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    out = attention(*(sequences(x, axis) for x in (q, k, v)), key_mask=key_mask, bias=bias, backend=backend)
    return out.transpose(1, 2) if axis == "temporal" else out.view(q.shape)


def contenders(device: torch.device) -> dict[str, Attend]:
    return {OURS: ours} | baselines(device)


def set_up(shape: Shape, device: torch.device, chosen: dict[str, Attend] | None = None) -> Prepared:
    """Random q, k, v, incoming gradient, mask and bias (for ours alone), and what every contender does with them."""
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, shape.size, generator=generator, device=device)
    q, k, v, grad = (draw().to(shape.dtype) for _ in range(4))
    mask = random_mask(sequences(q, shape.axis), shape.mask_rate, generator)
    leaves, coming_in = {"q": q, "k": k, "v": v}, grad if shape.backward else None
    if shape.biased:
        square = (shape.size[3], shape.length, shape.length)
        leaves["bias"] = torch.randn(square, generator=generator, device=device).to(shape.dtype)
    runs = {
        name: make_run(partial(attend, key_mask=mask, axis=shape.axis), leaves, coming_in)
        for name, attend in (chosen or contenders(device)).items()
    }
    truth = cache(partial(make_truth, shape, (q, k, v, grad), mask, leaves.get("bias")))
    return Prepared(runs, lambda name: truth())


def random_mask(x: Tensor, rate: float, generator: torch.Generator) -> Tensor | None:
    """(..., L) for sequences (..., L, H, D); the first key stays, for kernels that give NaN without any."""
    if not rate:
        return None
    mask = torch.rand(x.shape[:-2], generator=generator, device=x.device) >= rate
    mask[..., 0] = True
    return mask


def make_truth(shape: Shape, given: tuple[Tensor, ...], mask: Tensor | None, bias: Tensor | None = None) -> Truth:
    """Of a few sequences and heads, spread over all, as many as can be computed in float64 at once.

    The gradient of a bias, a sum over all sequences, is compared where these are all. Sums of D products of unit normal
    numbers reach about 4 sqrt(D).
    """
    everything = sequences(given[0], shape.axis)
    lead, heads = everything.shape[:-3], everything.shape[-2]
    fitting = max(PAIRS_CHECKED // shape.length**2, 1)  # sequences of one head
    which_heads = spread(heads, fitting)
    which_sequences = spread(lead.numel(), min(fitting // len(which_heads), 64))
    which = torch.unravel_index(which_sequences, lead)

    def pick(x: Tensor) -> Tensor:
        return sequences(x, shape.axis)[which][..., which_heads, :]  # (S, L, heads, D)

    q, k, v, grad = map(pick, given)
    chosen = None if mask is None else mask[which]
    added = None if bias is None else bias[which_heads]
    wanted: tuple[str, ...] = NAMES[:-1] if shape.backward else NAMES[:1]
    if shape.backward and bias is not None and len(which_sequences.unique()) == lead.numel():
        wanted = NAMES

    def pick_all(results: Results) -> Results:
        return {name: results[name][which_heads] if name == "grad_bias" else pick(results[name]) for name in wanted}

    wide = None if added is None else added.double()
    exact = attention_by_rows(q.double(), k.double(), v.double(), grad.double(), chosen, exact_attention, bias=wide)
    own = attention_by_rows(q, k, v, grad, chosen, torchs_attention, rows=shape.length, bias=added)
    return Truth(
        {name: exact[name] for name in wanted}, {name: own[name] for name in wanted}, pick_all, 4 * q.shape[-1] ** 0.5
    )


def spread(length: int, count: int) -> Tensor:
    """At most `count` whole numbers below `length`, evenly spaced, the last one among them."""
    return torch.linspace(length - 1, 0, max(min(length, count), 1)).long()


def exact_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    return attention(q, k, v, key_mask=mask, bias=bias, backend="reference")


def torchs_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """SDPA on sequences (S, L, H, D), in their dtype; bias: (H, L, L)."""
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    keep = None if mask is None else mask[:, None, None]
    if bias is not None:
        keep = bias[None] if keep is None else torch.where(keep, bias, float("-inf"))
    return scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2)


def attention_by_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    mask: Tensor | None,
    attend: Callable[..., Tensor],
    rows: int = 1024,
    bias: Tensor | None = None,
) -> dict[str, Tensor]:
    """Output and gradients of sequences (S, L, H, D), `rows` queries at a time: scores of all would not fit.

    bias: (H, L, L); its gradient is the sum over these sequences.
    """
    leaves = [x.detach().requires_grad_() for x in (q, k, v, bias) if x is not None]
    outs = []
    for start in range(0, q.shape[1], rows):
        some = slice(start, start + rows)
        added = None if bias is None else leaves[3][:, some]
        out = attend(leaves[0][:, some], leaves[1], leaves[2], mask, added)
        out.backward(grad[:, some])
        outs.append(out.detach())
    return dict(zip(NAMES, (torch.cat(outs, 1), *(leaf.grad for leaf in leaves)), strict=False))  # type: ignore[arg-type]

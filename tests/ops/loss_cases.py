"""Inputs of the losses, and of what is done to one tile of their logits, for tests with and without a GPU.

Imports nothing but torch and eokit.ops: machines with a GPU need not have more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from unittest import mock

import torch
from torch import Tensor

from eokit.ops import dino_cross_entropy, info_nce, mil_nce, use_backend
from eokit.ops.losses import streamed, tiles, whole
from eokit.ops.losses.tiles import INFINITY, Pairs
from tests.ops.row_cases import assert_as_exact_as

LOSSES = ("info_nce", "info_nce, positives", "mil_nce", "mil_nce, blocks", "dino_cross_entropy")
Case = tuple[list[Tensor], Callable[..., Tensor]]


@contextmanager
def in_tiles(size: tuple[int, int] | None = None) -> Iterator[None]:
    """Within, no logits are held, however few; size: rows and columns of a tile, the usual ones unless told."""
    sizes = {} if size is None else dict.fromkeys(streamed.TILE, size)
    with mock.patch.object(whole, "MOST", 0), mock.patch.dict(streamed.TILE, sizes):
        yield


def make_loss(loss: str, rows: int, columns: int, dim: int = 12) -> Case:
    """What has gradients, in float64, and the loss of it; mil_nce and info_nce without positives have rows alone.

    Groups of about five rows, not in order, and three blocks; or a tenth of the pairs positives, none of the first row.
    """
    if loss in ("info_nce", "mil_nce", "mil_nce, blocks"):
        columns = rows
    a, b = (torch.nn.functional.normalize(torch.randn(n, dim).double(), dim=1) for n in (rows, columns))
    if loss.startswith("mil_nce"):
        group = torch.randint(max(rows // 5, 1), (rows,))
        block = torch.randint(3, (rows,)) if "blocks" in loss else None
        return [a], lambda a: mil_nce(a, group, block=block, temperature=0.3)
    if loss.startswith("info_nce"):
        positives = torch.rand(rows, columns) < 0.1
        positives[0] = False
        return [a, b], lambda a, b: info_nce(
            a, b, positives=positives if "positives" in loss else None, temperature=0.3
        )
    teacher, center = [torch.randn(n, 5).double() / 3 for n in (rows, columns)], torch.randn(columns).double() / 5

    def dino(a: Tensor, b: Tensor) -> Tensor:
        given = (one.to(a.dtype) for one in teacher)
        return dino_cross_entropy(a, b, *given, center=center.to(a.dtype), temperature=0.3, teacher_temperature=0.2)

    return [a, b], dino


def run_loss(backend: str | None, dtype: torch.dtype, case: Case) -> tuple[Tensor, ...]:
    """The loss and its gradients."""
    leaves, loss = case
    leaves = [one.to(dtype).requires_grad_() for one in leaves]
    with use_backend(backend):
        out = loss(*leaves)
        return out, *torch.autograd.grad(out, leaves)


KINDS = ("nothing", "matrix", "turned matrix", "groups", "sorted groups", "blocks", "groups and blocks")
HUGE = 1e4
SIZES = [(1, 1, 1.0), (17, 143, 1.0), (17, 143, HUGE), (143, 17, 1.0), (257, 257, 1.0), (5, 2049, HUGE)]
"""Rows, columns and scale of logits; they are cut into two tiles."""


def passes_of(module):
    """The module, or that of a name: the kernels are not to be imported where Triton is not."""
    return import_module(f"eokit.ops.losses.{module}") if isinstance(module, str) else module


def make_pairs(kind, rows, columns):
    """Each row has positives with some columns and is no candidate with others; the first row has neither."""
    pairs = {}
    if "matrix" in kind:
        matrix = torch.rand(rows, columns) < 0.3
        matrix[0] = False
        pairs["positives"] = matrix.T.contiguous().T if "turned" in kind else matrix
    if "groups" in kind:
        ids = [torch.randint(7, (n,)) for n in (rows, columns)]
        pairs["group_rows"], pairs["group_columns"] = (x.sort()[0] if "sorted" in kind else x for x in ids)
        pairs["group_rows"][0] = -1
    if "blocks" in kind:
        pairs["block_rows"], pairs["block_columns"] = (torch.randint(3, (n,)) for n in (rows, columns))
        pairs["block_columns"][columns // 2 :] = 2
        pairs["block_rows"][-1] = 2  # no candidate in the second half
    return Pairs(**pairs)


def cut(pairs, columns):
    return Pairs(
        None if pairs.positives is None else pairs.positives[:, columns],
        *(one if one is None or number % 2 == 0 else one[columns] for number, one in enumerate(pairs[1:])),
    )


def halves(columns):
    return [one for one in (slice(0, columns // 3), slice(columns // 3, columns)) if one.start < one.stop]


def sums(module, scores, pairs, inside):
    """What the losses take of a state after two tiles: log sums, or the sum and the number of positives."""
    state = scores.new_zeros(4, len(scores))
    state[: 3 if inside else 1 : 2] = -INFINITY
    for columns in halves(scores.shape[1]):
        passes_of(module).nce_add(scores[:, columns].clone(), cut(pairs, columns), state, inside)
    return [tiles.log_sum(state[:2]), *([tiles.log_sum(state[2:])] if inside else state[2:])]


def slopes(module, scores, pairs, known, inside):
    """known: the log sums of every row, and what there is of positives."""
    run, known = passes_of(module).nce_slopes, [x.to(scores.dtype) for x in known]
    pieces = halves(scores.shape[1])
    return torch.cat([run(scores[:, c].clone(), cut(pairs, c), *known, inside) for c in pieces], 1)


def assert_law(ours, theirs, exact):
    """As `assert_as_exact_as`, and infinite where float64 is."""
    for a, truth in zip(ours, exact, strict=True):
        assert torch.equal(a.isneginf(), truth.isneginf())
    assert_as_exact_as(*([x.masked_fill(x.isneginf(), 0) for x in one] for one in (ours, theirs, exact)))


def assert_exact_pass(tested, kind, inside, rows, columns, scale):
    """Sums and slopes of random logits by the module `tested` are as exact as torch's; rows without positives are 0."""
    ways = ((tiles, torch.float64), (tiles, torch.float32), (tested, torch.float32))
    torch.manual_seed(rows)
    scores, pairs = torch.randn(rows, columns) * scale, make_pairs(kind, rows, columns)
    exact, theirs, ours = (sums(module, scores.to(dtype), pairs, inside) for module, dtype in ways)
    assert_law(ours, theirs, exact)
    used = exact[-1] > (-INFINITY if inside else 0)
    known = [torch.where(used, x, INFINITY) for x in (exact[0], exact[-1])]
    every, theirs, ours = (slopes(module, scores.to(dtype), pairs, known, inside) for module, dtype in ways)
    assert_law([ours], [theirs], [every])
    assert (ours[~used] == 0).all()

"""What the losses do to one tile of logits, by the compiled CPU library: InfoNCE and MIL-NCE by ids in one pass each.

`streamed.py` calls this for float32 tensors on a CPU. A matrix of positives and the tiles of DINO are left to torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eokit.ops.losses import tiles
from eokit.ops.losses.tiles import Pairs, dino_add, dino_slopes

__all__ = ["dino_add", "dino_slopes", "nce_add", "nce_slopes"]


def nce_add(scores: Tensor, pairs: Pairs, state: Tensor, inside: bool) -> None:
    """scores: (rows, columns), left as it is; see `tiles.nce_add`."""
    if _takes(pairs, inside):
        torch.ops.eokit.nce_add_(scores, *_ids(pairs), *state)
    else:
        tiles.nce_add(scores, pairs, state, inside)


def nce_slopes(scores: Tensor, pairs: Pairs, sums: Tensor, others: Tensor, inside: bool) -> Tensor:
    """scores: (rows, columns), in place; see `tiles.nce_slopes`."""
    if not _takes(pairs, inside):
        return tiles.nce_slopes(scores, pairs, sums, others, inside)
    torch.ops.eokit.nce_slopes_(scores, *_ids(pairs), sums, others)
    return scores


def _takes(pairs: Pairs, inside: bool) -> bool:
    return pairs.positives is None and (inside or pairs.group_rows is None)


def _ids(pairs: Pairs) -> list[Tensor | None]:
    return [None if one is None else one.long().contiguous() for one in pairs[1:]]

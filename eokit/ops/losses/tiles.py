"""What the losses do to one tile of logits, in torch; `compiled.py` and `triton.py` do the same in one pass.

`streamed.py` makes the tiles and hands them over. In the forward a tile is added to what is known of its rows and then
forgotten; in the backward it becomes its slopes, in place: the derivative of every row's loss by its logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

INFINITY = float("inf")


class Pairs(NamedTuple):
    """What rows are to columns. Equal groups, or True in `positives` (rows, columns): positives; equal blocks: nothing.

    The ids are integers, of the rows and of the columns; None: no pair is so.
    """

    positives: Tensor | None = None
    group_rows: Tensor | None = None
    group_columns: Tensor | None = None
    block_rows: Tensor | None = None
    block_columns: Tensor | None = None

    def positive(self) -> Tensor | None:
        """The candidates that are positives, bool (rows, columns); None: there are none."""
        positive = self.positives if self.positives is not None else _equal(self.group_rows, self.group_columns)
        same = _equal(self.block_rows, self.block_columns)
        return positive if positive is None or same is None else positive & ~same

    def mask(self, scores: Tensor) -> Tensor:
        """Scores (rows, columns), in place -inf for those that are no candidates."""
        same = _equal(self.block_rows, self.block_columns)
        return scores if same is None else scores.masked_fill_(same, -INFINITY)


def _equal(rows: Tensor | None, columns: Tensor | None) -> Tensor | None:
    return None if rows is None or columns is None else rows[:, None] == columns


def add(running: Tensor, scores: Tensor) -> Tensor:
    """running: (2, rows), the highest score so far and the sum of exp(score - highest). scores: (rows, columns).

    Scores of -inf do not count. They become, in place, exp(scores - highest). Returns what sums relative to the
    highest so far are to be multiplied with, as it rose: (rows,).
    """
    highest, total = running
    risen = torch.maximum(highest, scores.amax(1))
    shift = risen.clamp(min=torch.finfo(risen.dtype).min)  # rows without anything so far: exp(-inf - shift) = 0
    decay = (highest - shift).exp_()
    total.mul_(decay).add_(scores.sub_(shift[:, None]).exp_().sum(1))
    highest.copy_(risen)
    return decay


def log_sum(running: Tensor) -> Tensor:
    """Log sum exp (rows,) of what was added to running (2, rows), -inf where nothing was."""
    highest, total = running
    return total.log() + highest.clamp(min=torch.finfo(highest.dtype).min)


def nce_add(scores: Tensor, pairs: Pairs, state: Tensor, inside: bool) -> None:
    """Add the candidates of scores (rows, columns), which is used up, to state[:2], and its positives to state[2:].

    state: (4, rows), two running sums; inside=False: the last two are the sum and the number of positives.
    """
    pairs.mask(scores)
    positive = pairs.positive()
    if positive is not None and inside:
        add(state[2:], torch.where(positive, scores, -INFINITY))
    elif positive is not None:
        state[2] += torch.where(positive, scores, 0.0).sum(1)
        state[3] += positive.sum(1)
    add(state[:2], scores)


def nce_slopes(scores: Tensor, pairs: Pairs, sums: Tensor, others: Tensor, inside: bool) -> Tensor:
    """Scores (rows, columns) as slopes, in place; of rows whose sums and others are inf they are 0.

    sums: (rows,), the log sum of a row's candidates; others: that of its positives, or inside=False: their number.
    """
    pairs.mask(scores)
    positive, wanted = pairs.positive(), None
    if positive is not None and inside:
        wanted = torch.where(positive, scores, -INFINITY).sub_(others[:, None]).exp_()
    elif positive is not None:
        wanted = positive / others[:, None]
    slopes = scores.sub_(sums[:, None]).exp_()
    return slopes if wanted is None else slopes.sub_(wanted)


def dino_add(scores: Tensor, targets: Tensor, center: Tensor, state: Tensor) -> None:
    """Add scores (rows, columns) to state[:2], targets - center to state[2:4], and their product to state[4].

    Both tiles are used up. center: (columns,). state: (5, rows), two running sums, and the sum of exp(target) score,
    which is relative to the highest target as the sum of exp(target) is.
    """
    decay = add(state[2:4], targets.sub_(center))
    state[4].mul_(decay).add_(targets.mul_(scores).sum(1))
    add(state[:2], scores)


def dino_slopes(scores: Tensor, targets: Tensor, center: Tensor, sums: Tensor, teacher_sums: Tensor) -> Tensor:
    """Scores (rows, columns) as slopes, in place; targets is used up. sums, teacher_sums: (rows,), log sums of both."""
    slopes = scores.sub_(sums[:, None]).exp_()
    return slopes.sub_(targets.sub_(center).sub_(teacher_sums[:, None]).exp_())

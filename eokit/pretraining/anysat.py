"""AnySat's pretraining: predict a teacher's patches from fewer dates, patches and modalities, and tell places apart.

Two losses (Astruc et al., CVPR 2025): smooth L1 between predicted and teacher's tokens of hidden blocks (JEPA), and
MIL-NCE between the modalities' tokens of one patch and those of other patches. What differs from the published code,
and why, is in docs/anysat.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.data.sample import Batch
from eokit.errors import ArgumentError, UsageError
from eokit.models.anysat.blocks import SPATIAL_EPSILON, Block
from eokit.models.anysat.encoders import Kept, Tokens
from eokit.models.anysat.model import AnySat, Observed
from eokit.models.anysat.positions import grid_code
from eokit.models.anysat.sensors import CELL
from eokit.nn.blocks import WEIGHT_STD, linear
from eokit.ops import mil_nce
from eokit.pretraining.blocks import BlockMasks, draw_blocks
from eokit.pretraining.ema import make_teacher, momentum_at, move_towards
from eokit.pretraining.losses import effective_rank, feature_std, smooth_l1

PATCH_METRES, SEED, STEP = "patch_metres", "seed", "step"
"""Targets (B,) int64 that the recipe needs of a batch, put there by `eokit.data.mixture`: the patch size and the
number of the step, the same in all samples, and a seed of each sample."""


@dataclass(frozen=True)
class AnySatJEPAConfig:
    """How the recipe trains. The defaults are the paper's.

    predictor_depth: blocks of the predictor, which is as wide as the encoder. keep_dates: share of a series' dates that
    the student sees. keep_tokens: share of the tokens, beyond one a patch, that it sees of a patch's modalities.
    temperature: of MIL-NCE. predictive, contrastive: weights of the two losses.
    """

    predictor_depth: int = 4
    keep_dates: float = 0.5
    keep_tokens: float = 0.5
    temperature: float = 0.1
    predictive: float = 1.0
    contrastive: float = 1.0
    momentum: tuple[float, float] = (0.996, 1.0)

    def __post_init__(self) -> None:
        for name in ("keep_dates", "keep_tokens"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"jepa: {name} = {getattr(self, name)}, expected a share above 0 and up to 1")
        if not self.temperature > 0:
            raise UsageError(f"jepa: temperature = {self.temperature}, expected a number above 0")
        if min(self.predictive, self.contrastive) < 0 or not self.predictive + self.contrastive:
            found = f"predictive = {self.predictive}, contrastive = {self.contrastive}"
            raise UsageError(f"jepa: {found}; expected weights of 0 or more, and one above")


class Predictor(nn.Module):
    """From the student's patches to the teacher's, at the places asked for."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.inward = linear(width, width)
        self.blocks = nn.ModuleList(Block(width, SPATIAL_EPSILON) for _ in range(depth))
        self.norm = nn.LayerNorm(width, SPATIAL_EPSILON)
        self.outward = linear(width, width)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=WEIGHT_STD))

    def forward(self, context: Tensor, mask: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """context: (R, K, D) patches at the place codes `here`, mask: (R, K); there: (R, Kp, D) codes -> (R, Kp, D)."""
        wanted = (self.token + there).to(context.dtype)
        x = torch.cat([self.inward(context) + here.to(context.dtype), wanted], 1)
        mask = F.pad(mask, (0, there.shape[1]), value=True)
        for block in self.blocks:
            x = block(x, mask)
        return self.outward(self.norm(x[:, context.shape[1] :]))


class Hidden(NamedTuple):
    """What the student is not shown. context: (B, K) patch numbers, padded; mask: (B, K), which are not padding.

    targets: (R, Kp) patch numbers of the used blocks; sample: (R,) whose they are.
    """

    context: Tensor
    mask: Tensor
    targets: Tensor
    sample: Tensor


class AnySatJEPA(nn.Module):
    """The recipe: `forward(batch)` gives the loss and figures, `after_step(progress)` moves the teacher.

    The teacher sees all dates, modalities and patches, takes no gradient and stays in eval mode.
    """

    teacher: AnySat
    uses_parts = True
    """A batch of one data set leaves the projectors of other sensors without a gradient."""

    def __init__(self, encoder: AnySat, config: AnySatJEPAConfig | None = None) -> None:
        super().__init__()
        self.config = config or AnySatJEPAConfig()
        self.encoder = encoder
        self.predictor = Predictor(encoder.width, self.config.predictor_depth)
        self.teacher = make_teacher(encoder)

    def train(self, mode: bool = True) -> AnySatJEPA:
        """Set the mode of all but the teacher."""
        super().train(mode)
        self.teacher.eval()
        return self

    def after_step(self, progress: float) -> None:
        """After each optimiser step: move the teacher. progress: share of the run that is done, 0 to 1."""
        move_towards(self.teacher, self.encoder, momentum_at(progress, *self.config.momentum))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """batch: with the targets `PATCH_METRES`, `SEED` and `STEP`.

        Returns `loss` (); `weight` (), the predicted tokens of this process; and detached figures (): `jepa` and
        `contrastive`, the terms; `feature_std`, `effective_rank` of the student's context; `target_std`; `context`, its
        share of the patches.
        """
        metres, step, rngs = self._told(batch)
        observed = self.encoder.observe(batch)
        target, seen = self._targets(observed, metres)
        tokens = self.encoder.tokens(drop_dates(observed, self.config.keep_dates, rngs), metres)
        masks = draw_blocks(tokens.grid, np.random.default_rng(step), rngs)
        hidden = _hidden(masks, target.device)
        kept = keep_tokens(tokens, hidden, self.config.keep_tokens, rngs)
        context = self.encoder.combiner(tokens, metres / CELL, kept)[:, 1:]
        prediction = self._predict(context, hidden, tokens.grid, metres)
        wanted = target[hidden.sample[:, None], hidden.targets]  # (R, Kp, D)
        counts = seen[hidden.sample[:, None], hidden.targets]
        terms = {"jepa": self.config.predictive * smooth_l1(prediction[counts], wanted[counts])}
        if self.config.contrastive and len(tokens.patch) - len(tokens.whole) > 1:
            terms["contrastive"] = self.config.contrastive * contrast(tokens, self.config.temperature)
        figures = {name: one.detach() for name, one in terms.items()}
        figures |= self._figures(context[hidden.mask], target, masks)
        return {"loss": torch.stack(list(terms.values())).sum(), "weight": counts.sum(), **figures}

    @staticmethod
    def _told(batch: Batch) -> tuple[int, int, list[np.random.Generator]]:
        missing = [name for name in (PATCH_METRES, SEED, STEP) if name not in batch.targets]
        if missing:
            there = ", ".join(batch.targets) or "none"
            raise ArgumentError(f"the batch has targets {there}, AnySatJEPA needs {missing[0]!r}: read it by a Mixture")
        rngs = [np.random.default_rng(int(seed)) for seed in batch.targets[SEED]]
        return int(batch.targets[PATCH_METRES][0]), int(batch.targets[STEP][0]), rngs

    @torch.no_grad()
    def _targets(self, observed: Mapping[str, Observed], metres: int) -> tuple[Tensor, Tensor]:
        """The teacher's patches, layer-normed without learned scale: (B, P, D), and which were seen: (B, P)."""
        features = self.teacher.encode(observed, metres)
        x = features.patch.flatten(2).transpose(1, 2).float()
        return F.layer_norm(x, x.shape[-1:]), features.seen.flatten(1)

    def _predict(self, context: Tensor, hidden: Hidden, grid: tuple[int, int], metres: int) -> Tensor:
        """Predictions for the patches `hidden.targets`: (R, Kp, D)."""
        places = grid_code(grid, metres / CELL, context.shape[-1], context.device)
        here = places[hidden.context[hidden.sample]]
        return self.predictor(context[hidden.sample], hidden.mask[hidden.sample], here, places[hidden.targets])

    @torch.no_grad()
    def _figures(self, context: Tensor, target: Tensor, masks: BlockMasks) -> dict[str, Tensor]:
        return {
            "feature_std": feature_std(context),
            "effective_rank": effective_rank(context),
            "target_std": feature_std(target.flatten(0, 1)),
            "context": torch.tensor(float(masks.context.mean()), device=target.device),
        }


def drop_dates(observed: Mapping[str, Observed], keep: float, rngs: list[np.random.Generator]) -> dict[str, Observed]:
    """The same with a random share `keep` of each sample's dates, drawn for each series, the rest not there at all.

    A date that nobody saw (padding, wholly cloudy) is none of a sample's dates. One date stays.
    """
    kept = {}
    for name, one in observed.items():
        if one.sensor.is_image or keep >= 1:
            kept[name] = one
            continue
        here = (
            one.values.new_ones(one.dates.shape, dtype=torch.bool)
            if one.valid is None
            else one.valid.flatten(2).any(-1)
        )
        chosen = []
        for row, rng in zip(here.cpu().numpy(), rngs, strict=True):
            dates = row.nonzero()[0] if row.any() else np.arange(1)
            chosen.append(np.sort(rng.choice(dates, max(1, int(len(dates) * keep)), replace=False)))
        longest = max(map(len, chosen))
        index = torch.from_numpy(np.array([np.resize(row, longest) for row in chosen])).to(one.values.device)
        there = torch.from_numpy(np.array([np.arange(longest) < len(row) for row in chosen])).to(one.values.device)
        rows = torch.arange(len(index), device=index.device)[:, None]
        valid = None if one.valid is None else one.valid[rows, index]
        if not there.all():
            full = one.values.new_ones((*index.shape, *one.values.shape[-2:]), dtype=torch.bool)
            valid = (full if valid is None else valid) & there[..., None, None]
        kept[name] = one._replace(values=one.values[rows, index], dates=one.dates[rows, index], valid=valid)
    return kept


def keep_tokens(tokens: Tokens, hidden: Hidden, keep: float, rngs: list[np.random.Generator]) -> Kept:
    """The combiner's share: of each context patch one modality at random, and of the other tokens a share `keep`.

    The one is of those that were seen there, where any was. Tokens of whole tiles always stay.
    """
    names = [name for name in tokens.patch if name not in tokens.whole]
    patches, whole = tokens.grid[0] * tokens.grid[1], len(tokens.whole)
    context, mask = hidden.context.cpu().numpy(), hidden.mask.cpu().numpy()
    seen = np.ones((len(names), len(context), patches), bool)
    if tokens.seen is not None:
        seen = torch.stack([tokens.seen[name] for name in names]).cpu().numpy()
    shown = np.zeros((len(context), whole + len(names) * patches), bool)
    shown[:, :whole] = True
    for row, (numbers, rng) in enumerate(
        zip((one[here] for one, here in zip(context, mask, strict=True)), rngs, strict=True)
    ):
        first = (rng.random((len(names), len(numbers))) + seen[:, row, numbers]).argmax(0) * patches + numbers
        others = np.setdiff1d((np.arange(len(names))[:, None] * patches + numbers).ravel(), first)
        more = rng.choice(others, int(len(others) * keep), replace=False)
        shown[row, whole + np.concatenate([first, more])] = True
    keys, key_mask = first_true(torch.from_numpy(shown).to(hidden.context.device))
    return Kept(keys, key_mask, hidden.context)


def first_true(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L) bool -> numbers, those of the True ones first, cut to the longest: (B, K), and which are True: (B, K)."""
    most = int(mask.sum(1).max())
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return order, mask.gather(1, order)


def _hidden(masks: BlockMasks, device: torch.device) -> Hidden:
    context, mask = first_true(torch.from_numpy(masks.context))
    sample, block = masks.used.nonzero()
    targets = torch.from_numpy(masks.targets[sample, block])
    return Hidden(*(one.to(device) for one in (context, mask, targets, torch.from_numpy(sample))))


def contrast(tokens: Tokens, temperature: float) -> Tensor:
    """MIL-NCE of the modalities' tokens before the combiner: those of one patch belong together.

    Tokens of one sample and modality are never compared: neighbours look alike. Unseen patches are left out.
    """
    names = [name for name in tokens.patch if name not in tokens.whole]
    batch, patches = tokens.patch[names[0]].shape[:2]
    device = tokens.patch[names[0]].device
    rows = torch.stack([tokens.patch[name] for name in names])  # (M, B, P, D)
    sample = torch.arange(batch, device=device)[None, :, None]
    group = (sample * patches + torch.arange(patches, device=device)).expand(rows.shape[:3]).flatten()
    block = (torch.arange(len(names), device=device)[:, None, None] * batch + sample).expand(rows.shape[:3]).flatten()
    rows = F.normalize(rows.float(), dim=-1).flatten(0, 2)
    if tokens.seen is not None:
        seen = torch.stack([tokens.seen[name] for name in names]).flatten()
        rows, group, block = rows[seen], group[seen], block[seen]
    return mil_nce(rows, group=group, block=block, temperature=temperature)

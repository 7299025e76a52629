"""Joint-embedding prediction: a student that sees a series with parcels hidden predicts its teacher's tokens there.

The teacher is the moving average of the student and sees everything. As I-JEPA (Assran et al., CVPR 2023), with the
plot-wise masks of CropSTS: hidden patches are hidden on all dates and replaced by a learned token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eokit.data.sample import Batch
from eokit.errors import ArgumentError
from eokit.models.cropsts import CropSTS, Tokens, pool
from eokit.nn.blocks import WEIGHT_STD, AlternatingBlocks, linear
from eokit.nn.positions import SpaceTimePositions
from eokit.pretraining.ema import make_teacher, momentum_at, move_towards
from eokit.pretraining.losses import effective_rank, feature_std, smooth_l1


@dataclass(frozen=True)
class JEPAConfig:
    """What builds the predictor and moves the teacher.

    predictor_width, predictor_depth: None means half of the encoder's: 192 and 6 for the paper's size. momentum: of
    the teacher at the first and at the last step (I-JEPA's train.py).
    """

    predictor_width: int | None = None
    predictor_depth: int | None = None
    momentum: tuple[float, float] = (0.996, 1.0)


class Predictor(nn.Module):
    """A narrower ViT, alternating as the encoder does, from the student's tokens to the teacher's."""

    def __init__(self, encoder: CropSTS, config: JEPAConfig) -> None:
        super().__init__()
        width = config.predictor_width or encoder.width // 2
        depth = config.predictor_depth or max(1, encoder.config.depth // 2)
        order = "joint" if encoder.config.attention == "joint" else encoder.config.order
        self.narrow = linear(encoder.width, width)
        self.positions = SpaceTimePositions(width)
        self.trunk = AlternatingBlocks(width, depth, max(1, encoder.config.heads // 2), order=order)
        self.widen = linear(width, encoder.width)

    def forward(self, tokens: Tokens, wanted: Tensor) -> Tensor:
        """tokens: the student's, x (B, T, N, D); wanted: (B, T, N) bool with K True -> predictions (K, D)."""
        x = self.positions(self.narrow(tokens.x), tokens.days, tokens.grid)
        return self.widen(self.trunk(x, tokens.key_mask)[wanted])


class JEPA(nn.Module):
    """The recipe: `forward(batch)` gives the loss and figures to watch, `after_step(progress)` moves the teacher.

    `encoder` is the student, which is what a run keeps. The teacher takes no gradient and stays in eval mode.
    """

    teacher: CropSTS

    def __init__(self, encoder: CropSTS, config: JEPAConfig | None = None) -> None:
        super().__init__()
        self.config = config or JEPAConfig()
        self.encoder = encoder
        self.predictor = Predictor(encoder, self.config)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(encoder.width), std=WEIGHT_STD))
        self.teacher = make_teacher(encoder)

    def train(self, mode: bool = True) -> JEPA:
        """Set the mode of all but the teacher."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """batch: with targets["masked"] (B, h, w) bool, from `MaskTokens`.

        Returns `loss` (), averaged over the hidden and seen tokens of all processes; `weight` (), how many of them this
        process had, by which micro-batches are added up; and detached figures ():
        `feature_std` and `effective_rank` of the student's visible patches (means over dates), `target_std` of the
        teacher's tokens, `masked_share` of the seen tokens.
        """
        masked = self._masked(batch)
        student = self.encoder.tokens(batch, masked, self.mask_token)
        wanted = masked.flatten(1)[:, None] & student.key_mask  # (B, T, N)
        target = self._targets(batch)[wanted]
        prediction = self.predictor(student, wanted)
        # The loss is a sum of named terms: "jepa" predicts the teacher's tokens; distillation from a frozen foundation
        # model adds a term of its own here, on the same student tokens.
        terms = {"jepa": smooth_l1(prediction, target)}
        loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss, "weight": wanted.sum(), **self._figures(student, masked, target, wanted)}

    def after_step(self, progress: float) -> None:
        """After each optimiser step: move the teacher. progress: share of the run that is done, 0 to 1."""
        move_towards(self.teacher, self.encoder, momentum_at(progress, *self.config.momentum))

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Tensor:
        """The teacher's tokens of the whole input, layer-normed without learned scale: (B, T, N, D)."""
        x = self.teacher.tokens(batch).x
        return F.layer_norm(x.float(), x.shape[-1:])

    @torch.no_grad()
    def _figures(self, student: Tokens, masked: Tensor, target: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        pooled = pool(student)
        visible = pooled.patch.permute(0, 2, 3, 1)[pooled.seen & ~masked]  # (K, D)
        return {
            "feature_std": feature_std(visible),
            "effective_rank": effective_rank(visible),
            "target_std": feature_std(target),
            "masked_share": wanted.sum() / student.key_mask.sum().clamp_min(1),
        }

    def _masked(self, batch: Batch) -> Tensor:
        if "masked" not in batch.targets:
            raise ArgumentError(
                f"the batch has targets {', '.join(batch.targets) or 'none'}, JEPA needs 'masked':"
                " add MaskTokens to the transforms of the data set"
            )
        return batch.targets["masked"]

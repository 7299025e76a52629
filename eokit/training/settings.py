"""What a training loop can be told: one typed object, shared by pretraining and fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eokit.config import Settings

HARMLESS = frozenset({"workers", "log_every", "save_every", "keep", "device"})
"""Settings that may change when a run is continued: they alter no weight (a device only by rounding)."""


class LoopSettings(Settings):
    """Length, batches, optimiser and book-keeping of one run.

    The optimiser's defaults are those for some thousand samples: AdamW, batch 32, lr 2.5e-4, constant weight decay,
    linear warm-up then cosine (I-JEPA's schedule, scaled down); `clip` is DINOv2's.
    """

    steps: int = Field(default=1000, gt=0, description="optimiser steps of the whole run")
    batch_size: int = Field(default=32, gt=0, description="samples a step, over all processes and micro-batches")
    lr: float = Field(default=2.5e-4, gt=0, description="highest learning rate")
    final_lr: float = Field(default=1e-6, ge=0, description="learning rate at the last step")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(
        default=0.05, ge=0, description="not applied to biases, norms, tokens and position tables"
    )
    clip: float | None = Field(default=3.0, gt=0, description="highest norm of the gradient; null: no clipping")
    accumulate: int = Field(default=1, gt=0, description="micro-batches a step")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 autocast on CUDA, fp32 on CPU"
    )
    seed: int = Field(default=0, ge=0)
    workers: int | None = Field(
        default=None, ge=0, description="loader processes per process; null: the idle cores, at most 8"
    )
    log_every: int = Field(default=10, gt=0, description="steps between two events")
    save_every: int = Field(default=500, gt=0, description="steps between two checkpoints")
    keep: int = Field(default=3, gt=0, description="checkpoints kept, the best ones so far of each come on top")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1")

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

    steps: int = Field(1000, gt=0, description="optimiser steps of the whole run")
    batch_size: int = Field(32, gt=0, description="samples a step, over all processes and micro-batches")
    lr: float = Field(2.5e-4, gt=0, description="highest learning rate")
    final_lr: float = Field(1e-6, ge=0, description="learning rate at the last step")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases, norms, tokens and position tables")
    clip: float | None = Field(3.0, gt=0, description="highest norm of the gradient; null: no clipping")
    accumulate: int = Field(1, gt=0, description="micro-batches a step")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on CUDA, fp32 on CPU")
    seed: int = Field(0, ge=0)
    workers: int | None = Field(None, ge=0, description="loader processes per process; null: the idle cores, at most 8")
    log_every: int = Field(10, gt=0, description="steps between two events")
    save_every: int = Field(500, gt=0, description="steps between two checkpoints")
    keep: int = Field(3, gt=0, description="checkpoints kept, the best one comes on top")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")

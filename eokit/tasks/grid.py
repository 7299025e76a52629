"""How the pixels of a label map lie on the patches and sub-patches of an encoder. Called by fine-tuning and probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eokit.data.preprocessing import Preprocessing
from eokit.data.spec import LabelSpec
from eokit.errors import UsageError
from eokit.models.base import Encoder
from eokit.models.registry import build_encoder

if TYPE_CHECKING:
    from eokit.data.store import Store


def patch_pixels(encoder: Encoder, store: Store, inputs: Preprocessing, label: LabelSpec) -> int:
    """Label pixels along a patch, from the shapes in the store; a UsageError where they are no whole number."""
    finest = store.modalities[max(inputs.inputs, key=lambda name: store.modalities[name].shape[-1])]
    pixels = encoder.patch_pixels(finest.name, len(finest.bands))
    side = _label_pixels(pixels, finest.shape[-1], label)
    if side is None:
        raise UsageError(
            f"{store.path}: label layer {label.name!r} has {label.shape[-1]} pixels where {finest.name} has"
            f" {finest.shape[-1]}, so a patch of {pixels} of those is no whole number of labels; choose another patch"
        )
    return side


def choose_dense(
    encoder: Encoder, store: Store, inputs: Preprocessing, label: LabelSpec, wanted: str | None = None
) -> str:
    """The modality whose sub-patches divide the label map and are the smallest of those that do, or `wanted`.

    A UsageError where the encoder has no dense features, or where no modality, or not the wanted one, divides it.
    """
    sides: dict[str, int] = {}
    for name in inputs.inputs:
        spec = store.modalities[name]
        pixels = encoder.subpatch_pixels(name, len(spec.bands))
        side = None if pixels is None else _label_pixels(pixels, spec.shape[-1], label)
        if side is not None:
            sides[name] = side
    if all(encoder.subpatch_pixels(name, len(store.modalities[name].bands)) is None for name in inputs.inputs):
        raise UsageError(f"{encoder.family} has no dense features of {', '.join(inputs.inputs)}; use those of patches")
    if not sides or (wanted is not None and wanted not in sides):
        asked = f"dense = {wanted!r}: not" if wanted is not None else "dense features: none"
        fit = f"; {', '.join(sides)} would do" if sides else ""
        size = " x ".join(map(str, label.shape))
        raise UsageError(f"{asked} a modality whose sub-patches divide the labels {label.name!r} of {size} pixels{fit}")
    return wanted or min(sides, key=lambda name: sides[name])


def with_dense(encoder: Encoder, modality: str | None) -> Encoder:
    """The same encoder, built to tell of the sub-patches of `modality`, or of none."""
    if encoder.config_dict().get("dense") == modality:
        return encoder
    again = build_encoder(encoder.family, None, encoder.config_dict() | {"dense": modality})
    again.load_state_dict(encoder.state_dict())
    return again


def _label_pixels(pixels: int, width: int, label: LabelSpec) -> int | None:
    """Label pixels under `pixels` of an image `width` pixels wide; None where they are no whole number."""
    side, rest = divmod(label.shape[-1] * pixels, width)
    return side if side and not rest else None

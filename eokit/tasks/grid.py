"""How the pixels of a label map lie on the patches and sub-patches of an encoder. Called by fine-tuning and probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eokit.data.preprocessing import Preprocessing
from eokit.data.spec import LabelSpec
from eokit.errors import UsageError
from eokit.models.base import Encoder, TileOf
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


def patch_metres_of(
    encoder: Encoder, store: Store, inputs: Preprocessing, wanted: int | None = None, crop: int | None = None
) -> int | None:
    """The patch size in metres with which a store is encoded: `wanted`, else the encoder's own; None where it has none.

    crop: edge of a window, pixels of the first of `inputs`. A UsageError where the family has no such choice, or where
    patches of that size do not cut the samples, or windows of them, into whole ones.
    """
    if "patch_metres" not in encoder.choices:
        if wanted is not None:
            pixels = encoder.patch_size
            raise UsageError(
                f"--patch-metres {wanted}: the patches of {encoder.family} are {pixels} pixels; leave the option out"
            )
        return None
    metres: int = wanted or encoder.config.patch_metres
    first = store.modalities[next(iter(inputs.inputs))]
    for window in (None, crop):
        if _cuts(encoder, store, inputs, metres, window):
            continue
        edge = round((window or min(first.shape[-2:])) * first.gsd)
        fitting = [str(one) for one in fitting_patches(encoder, store, inputs, crop)]
        given = f"--patch-metres {metres}" if wanted else f"patches of {metres} m, as the bundle keeps them"
        raise UsageError(
            f"{store.path}: {given}: {edge} m of {', '.join(inputs.inputs)}{f' (crop {window})' if window else ''}"
            " do not divide into whole ones; "
            + (f"give --patch-metres {' or '.join(fitting)}" if fitting else "no size would do, leave a modality out")
        )
    return metres


def fitting_patches(encoder: Encoder, store: Store, inputs: Preprocessing, crop: int | None = None) -> list[int]:
    """The patch sizes in metres that cut the samples, and windows of `crop` pixels of them, into whole patches."""
    first = store.modalities[next(iter(inputs.inputs))]
    edge = round(min(first.shape[-2:]) * first.gsd)
    return [
        metres
        for metres in range(1, edge + 1)
        if all(_cuts(encoder, store, inputs, metres, window) for window in (None, crop))
    ]


def _cuts(encoder: Encoder, store: Store, inputs: Preprocessing, metres: int, window: int | None) -> bool:
    """Whether patches of so many metres cut all modalities of a sample, or of a window of it, into whole ones."""
    across = store.modalities[next(iter(inputs.inputs))].shape[-2]
    for name in inputs.inputs:
        spec = store.modalities[name]
        sides = spec.shape[-2:] if window is None else (spec.shape[-2] * window // across,)
        try:
            pixels = encoder.patch_pixels(name, len(spec.bands), metres)
        except UsageError:  # no whole number of sub-patches
            return False
        if any(side % pixels for side in sides):
            return False
    return True


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
    return _configured(encoder, "dense", modality)


def with_patch(encoder: Encoder, metres: int | None) -> Encoder:
    """The same encoder, built for patches of so many metres; None: as it is."""
    return encoder if metres is None else _configured(encoder, "patch_metres", metres)


def with_tile_of(encoder: Encoder, of: TileOf | None) -> Encoder:
    """The same encoder, built to give another vector of a sample; None: as it is."""
    check_tile_of(encoder, of)
    return encoder if of is None else _configured(encoder, "tile_of", of)


def check_tile_of(encoder: Encoder, of: TileOf | None) -> None:
    """Refuse to choose the vector of a sample where the family has only one (UsageError)."""
    if of is not None and "tile_of" not in encoder.choices:
        raise UsageError(f"--tile-of {of}: {encoder.family} has one vector of a sample; leave the option out")


def _configured(encoder: Encoder, key: str, value: Any) -> Encoder:
    """The same weights under another value of the configuration that changes none of them."""
    if encoder.config_dict().get(key) == value:
        return encoder
    again = build_encoder(encoder.family, None, encoder.config_dict() | {key: value})
    again.load_state_dict(encoder.state_dict())
    return again


def _label_pixels(pixels: int, width: int, label: LabelSpec) -> int | None:
    """Label pixels under `pixels` of an image `width` pixels wide; None where they are no whole number."""
    side, rest = divmod(label.shape[-1] * pixels, width)
    return side if side and not rest else None

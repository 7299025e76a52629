"""What AnySat makes of pixels that were not seen, by sensor, in its own form and in that of the published code.

In its own form what was not seen is not there: it enters no norm, no pooling and no attention. The published training
code puts a learned number where a series is masked, whose dates still count; images have no mask there.
"""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

from eokit.data.sample import Batch, Series, Where
from eokit.models.anysat.model import EVERY_SENSOR, Observed
from eokit.models.anysat.official import stand_in_encoder
from eokit.models.anysat.sensors import SENSORS
from eokit.models.base import Features

from .contract import assert_same

METRES, PATCHES = 30, 2
PIXELS = {"aerial": 300, "spot": 60, "naip": 48, "s2": 6, "s1-asc": 6, "s1": 6, "l8": 6, "l7": 2, "alos": 2, "modis": 1}
"""Along a tile of 60 m, two patches of 30 m; one of MODIS."""
IMAGES, SERIES = ("aerial", "spot", "naip"), ("s2", "s1-asc", "s1", "l8", "l7", "alos", "modis")
FORMS = ("none", "official")
WIDTH = 128
"""Of features; at half of it the first group norm would be over two numbers, hence of signs alone."""


def encoder_of(parity="none"):
    return copy.deepcopy(built(parity))


@cache
def built(parity):
    modalities = {name: EVERY_SENSOR[name] for name in PIXELS}
    encoder = stand_in_encoder("tiny", modalities=modalities, width=WIDTH, depth=1, parity=parity)
    assert all(encoder.projectors[name].missing for name in SERIES)  # a learned number, not its first value of 0
    return encoder


def noise(name, size=2, dates=4):
    """What a sensor saw of some samples, all of it valid."""
    rng, side = torch.Generator().manual_seed(sum(map(ord, name))), PIXELS[name]
    dates = 1 if name in IMAGES else dates
    values = torch.randn(size, dates, EVERY_SENSOR[name], side, side, generator=rng)
    days = torch.randint(1, 367, (size, dates), generator=rng)
    return Observed(SENSORS[name], values, days, torch.ones(size, dates, side, side, dtype=torch.bool))


def clouded(name, size=2):
    """The same with half of the pixels of each date not seen, but every pixel on some date.

    Of an image the left half of each 10 m is not seen, and a quarter besides in the first 30 m.
    """
    one = noise(name, size)
    valid = one.valid.clone()
    if name in IMAGES:
        edge = PIXELS[name] // 6
        for column in range(6):
            valid[..., edge * column : edge * column + edge // 2] = False
        valid[..., : 3 * edge, : edge + edge // 4] = False
        return one._replace(valid=valid)
    valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(3)) > 0.5
    valid[-1, 1] = False  # a date that shows nothing
    valid[:, 0] |= ~valid.any(1)
    return one._replace(valid=valid)


def with_values(one, filler):
    """The same with `filler` where it was not seen."""
    return one._replace(values=torch.where(one.valid[:, :, None], one.values, filler))


def equal(ours: Features, theirs: Features) -> bool:
    return torch.equal(ours.tile, theirs.tile) and torch.equal(ours.patch, theirs.patch)


def beside(name):
    """A modality that was wholly seen, to stand beside `name`."""
    other = "s1" if name != "s1" else "s2"
    return {other: noise(other)._replace(valid=None)}


@pytest.mark.parametrize("parity", FORMS)
@pytest.mark.parametrize("filler", [torch.nan, 1e30])
@pytest.mark.parametrize("name", PIXELS)
@torch.no_grad()
def test_values_of_masked_pixels_are_never_looked_at(name, filler, parity):
    encoder, one = encoder_of(parity), clouded(name)
    features = encoder.encode(beside(name) | {name: one}, METRES)
    assert features.tile.isfinite().all()
    assert features.patch.isfinite().all()
    assert equal(encoder.encode(beside(name) | {name: with_values(one, filler)}, METRES), features)


@pytest.mark.parametrize("name", PIXELS)
@torch.no_grad()
def test_a_mask_changes_features(name):
    for parity in FORMS:
        if parity == "official" and name in IMAGES:
            continue
        encoder, one = encoder_of(parity), clouded(name)
        masked, open_ = (
            encoder.encode(beside(name) | {name: each}, METRES) for each in (one, one._replace(valid=None))
        )
        assert (masked.tile - open_.tile).abs().max() > 1e-3, parity


@pytest.mark.parametrize("parity", FORMS)
@pytest.mark.parametrize("name", PIXELS)
@torch.no_grad()
def test_a_mask_of_nothing_is_no_mask(name, parity):
    encoder, one = encoder_of(parity), noise(name)
    masked = encoder.encode(beside(name) | {name: one}, METRES)
    assert_same(masked, encoder.encode(beside(name) | {name: one._replace(valid=None)}, METRES))


@pytest.mark.parametrize("name", PIXELS)
@torch.no_grad()
def test_a_modality_that_is_wholly_masked_is_not_there(name):
    encoder, one = encoder_of(), noise(name)
    blind = one._replace(valid=torch.zeros_like(one.valid))
    assert_same(encoder.encode(beside(name) | {name: blind}, METRES), encoder.encode(beside(name), METRES))


@pytest.mark.parametrize("name", SERIES)
@torch.no_grad()
def test_a_modality_that_is_wholly_masked_is_a_constant_in_the_published_code(name):
    encoder, one = encoder_of("official"), noise(name)
    blind = one._replace(valid=torch.zeros_like(one.valid))
    constant = one._replace(values=encoder.projectors[name].missing.expand(one.values.shape), valid=None)
    ours, theirs = (encoder.encode(beside(name) | {name: each}, METRES) for each in (blind, constant))
    assert equal(ours, theirs)
    assert ours.seen.all()
    assert (ours.tile - encoder.encode(beside(name), METRES).tile).abs().max() > 1e-3


@pytest.mark.parametrize("name", SERIES)
@torch.no_grad()
def test_masked_values_are_the_learned_number_in_the_published_code(name):
    encoder, one = encoder_of("official"), clouded(name)
    number = encoder.projectors[name].missing
    told = with_values(one, number)._replace(valid=None)
    dense = None if name == "modis" else name
    ours, theirs = (encoder.encode(beside(name) | {name: each}, METRES, dense) for each in (one, told))
    assert equal(ours, theirs)
    if dense:
        assert torch.equal(ours.dense, theirs.dense)
    number += 1.0
    assert not equal(encoder.encode(beside(name) | {name: one}, METRES), ours)


@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_masked_pixels_of_images_are_zeros_that_are_attended_in_the_published_code(name):
    encoder, one = encoder_of("official"), clouded(name)
    told = with_values(one, 0.0)._replace(valid=None)
    ours, theirs = (encoder.encode(beside(name) | {name: each}, METRES) for each in (one, told))
    assert equal(ours, theirs)


@pytest.mark.parametrize("name", SERIES)
@torch.no_grad()
def test_a_pixel_is_pooled_over_the_dates_that_saw_it(name):
    encoder, one = encoder_of(), clouded(name)
    projected = encoder.project(one, METRES).x
    side = 1 if name == "modis" else PIXELS[name] // PATCHES
    patches = 1 if name == "modis" else PATCHES
    for sample in range(2):
        for row in range(PIXELS[name]):
            for column in range(PIXELS[name]):
                dates = one.valid[sample, :, row, column]
                values = one.values[sample, dates][:, :, row, column]  # (T, C) of the dates that saw the pixel
                alone = encoder.projectors[name](values[None, None], one.dates[sample, dates][None])[0, 0]
                patch, place = row // side * patches + column // side, row % side * side + column % side
                assert (projected[sample, patch, place] - alone).abs().max() < 1e-4  # norms over four numbers


@pytest.mark.parametrize("name", SERIES)
@torch.no_grad()
def test_a_date_that_shows_nothing_may_be_left_out(name):
    encoder, one = encoder_of(), noise(name)
    one.valid[:, 1] = False
    rest = Observed(one.sensor, one.values[:, [0, 2, 3]], one.dates[:, [0, 2, 3]])
    assert_same(encoder.encode(beside(name) | {name: one}, METRES), encoder.encode(beside(name) | {name: rest}, METRES))


@pytest.mark.parametrize("name", [name for name in PIXELS if name != "modis"])
@torch.no_grad()
def test_patches_and_subpatches_are_seen_where_pixels_are(name):
    encoder, one = encoder_of(), clouded(name)
    edge = {"aerial": 10, "spot": 10, "naip": 8}.get(name, 1)
    side = PIXELS[name] // edge // PATCHES
    one.valid[0, :, : side * edge, side * edge :] = False  # the upper right patch of the first sample
    one.valid[1, :, :edge, :edge] = False  # the first sub-patch of the second
    seen = encoder.project(one, METRES).seen
    for sample in range(2):
        for row in range(PATCHES * side):
            for column in range(PATCHES * side):
                pixels = one.valid[sample, :, row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
                expected = bool(pixels.float().mean() >= 0.5) if name in IMAGES else bool(pixels.any())
                patch, place = row // side * PATCHES + column // side, row % side * side + column % side
                assert bool(seen[sample, patch, place]) == expected
    alone = encoder.encode({name: one}, METRES)
    assert alone.seen.flatten(1).tolist() == seen.any(-1).tolist()
    assert not alone.seen[0, 0, 1]
    assert encoder.encode(beside(name) | {name: one}, METRES).seen.all()


@torch.no_grad()
def test_masks_of_aerial_cells_are_in_the_order_of_the_cells():
    config = {"modalities": {"aerial": 4}, "width": WIDTH, "depth": 1, "aerial_order": "nested"}
    encoder, one = stand_in_encoder("tiny", **config), noise("aerial", size=1)
    row, column = 7, 13  # of the 15 x 15 sub-patches of the first patch: row 2, column 3 of cell (1, 2) of 3 x 3
    one.valid[..., 10 * row : 10 * row + 10, 10 * column : 10 * column + 10] = False
    assert (~encoder.project(one, METRES).seen).nonzero().tolist() == [[0, 0, (1 * 3 + 2) * 25 + 2 * 5 + 3]]


@torch.no_grad()
def test_an_unseen_subpatch_and_an_unseen_patch_are_not_attended():
    encoder = encoder_of()
    one = noise("s2")
    one.valid[:, :, 0, 0] = False
    one.valid[:, :, 3:, 3:] = False
    before = encoder.encode(beside("s2") | {"s2": one}, METRES)
    project = encoder.project

    def spoiled(observed, metres):  # whatever an unseen pixel is projected to
        projected = project(observed, metres)
        if projected.seen is None:
            return projected
        return projected._replace(x=torch.where(projected.seen[..., None], projected.x, 1e3))

    encoder.project = spoiled
    assert_same(encoder.encode(beside("s2") | {"s2": one}, METRES), before)


@pytest.mark.parametrize("parity", FORMS)
@pytest.mark.parametrize("name", PIXELS)
def test_no_gradient_reaches_what_was_not_seen(name, parity):
    encoder, one = encoder_of(parity), clouded(name)
    values = with_values(one, 1e30).values.requires_grad_()
    features = encoder.encode(beside(name) | {name: one._replace(values=values)}, METRES)
    weights = torch.randn(features.patch.shape, generator=torch.Generator().manual_seed(1))
    ((features.patch * weights).sum() + features.tile.sum()).backward()
    gradient = values.grad.abs().amax(2)  # (B, T, H, W)
    assert gradient.isfinite().all()
    assert not gradient[~one.valid].any()
    assert gradient[one.valid].any()
    assert all(x.grad.isfinite().all() for x in encoder.parameters() if x.grad is not None)


@pytest.mark.parametrize("parity", FORMS)
@torch.no_grad()
def test_masks_of_other_samples_change_nothing(parity):
    encoder = encoder_of(parity)
    observed = {name: clouded(name, size=3) for name in PIXELS}
    observed["l7"].valid[1] = False
    observed["modis"].valid[2] = False
    observed["alos"].valid[0] = True
    together = encoder.encode(observed, METRES, "l7")
    for number in range(3):
        row = slice(number, number + 1)
        alone = {
            name: one._replace(values=one.values[row], dates=one.dates[row], valid=one.valid[row])
            for name, one in observed.items()
        }
        theirs = Features(together.tile[row], together.patch[row], together.seen[row], together.dense[row])
        assert_same(encoder.encode(alone, METRES, "l7"), theirs)


@pytest.mark.parametrize("name", SERIES)
def test_a_series_of_no_dates_is_not_there(name):
    encoder = encoder_of()
    other, where = next(iter(beside(name))), (Where("a"), Where("b"))
    full, none = as_series(noise(other), other), as_series(noise(name, dates=0), name)
    both, alone = Batch({other: full, name: none}, where), Batch({other: full}, where)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert_same(encoder(both, METRES), encoder(alone, METRES))


def only_modis(seen_by_modis=(True, False)):
    """Two samples of 60 m, of which s2 saw nothing and MODIS what is told."""
    s2, modis = noise("s2"), noise("modis")
    s2.valid[:] = False
    modis.valid[:] = torch.tensor(seen_by_modis)[:, None, None, None]
    return {"s2": s2, "modis": modis}


@pytest.mark.parametrize("metres", [10, 20, 30, 60])
@torch.no_grad()
def test_modis_makes_no_patch_seen_at_any_patch_size(metres):
    assert not encoder_of().encode(only_modis(), metres).seen.any()


@torch.no_grad()
def test_modis_alone_is_seen_where_it_is():
    assert encoder_of().encode({"modis": only_modis()["modis"]}, METRES).seen.flatten().tolist() == [True, False]


@pytest.mark.parametrize("metres", [30, 60])
@pytest.mark.parametrize(
    ("tile_of", "told"), [("token", [True, False]), ("modalities", [True, False]), ("patches", [False, False])]
)
@torch.no_grad()
def test_a_sample_that_only_modis_saw_has_a_vector_of_what_modis_is_in(metres, tile_of, told):
    observed = only_modis()
    features = encoder_of().encode(observed, metres, tile_of=tile_of)
    assert features.tile_seen.tolist() == told
    other = observed["modis"]._replace(values=observed["modis"].values + 1)
    moved = encoder_of().encode(observed | {"modis": other}, metres, tile_of=tile_of)
    assert ((moved.tile - features.tile).abs().amax(1) > 1e-6).tolist() == told


def as_series(one, name):
    return Series(one.values, one.dates.int(), one.valid, name)

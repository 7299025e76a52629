"""Where AnySat's pixels go: into which patch and sub-patch, at which place of the codes, and back into dense maps.

What must come out is counted here in loops over pixels, by metres; nothing of what the encoder counts with is used.
Every pixel carries its own row and column as its value. Tiles are two patches high and three wide.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from itertools import product

import pytest
import torch
from torch import nn

from eokit.errors import ArgumentError, UsageError
from eokit.models.anysat.model import EVERY_SENSOR, Observed
from eokit.models.anysat.official import stand_in_encoder
from eokit.models.anysat.positions import buckets, grid_code
from eokit.models.anysat.projectors import SeriesProjector
from eokit.models.anysat.sensors import SENSORS

METRES_AND_EDGE = {
    "aerial": (0.2, 10),
    "aerial-flair": (0.2, 10),
    "spot": (1.0, 10),
    "naip": (1.25, 8),
    "s2": (10, 1),
    "s1": (10, 1),
    "s1-asc": (10, 1),
    "l8": (10, 1),
    "l7": (30, 1),
    "alos": (30, 1),
}
"""Metres of a pixel, and pixels along a sub-patch, of every sensor that has sub-patches."""
AERIAL = ("aerial", "aerial-flair")
COARSE = ("l7", "alos")
SIZES = [(name, metres) for name in METRES_AND_EDGE for metres in ((30, 60) if name in COARSE else (10, 20, 30))]
DOWN, RIGHT = 2, 3
WIDTH = 128
"""Of features; at half of it the first group norm would be over two numbers, hence of signs alone."""


def along(name, metres):
    """Sub-patches along a patch, which fill it."""
    pixel, edge = METRES_AND_EDGE[name]
    count = metres / (pixel * edge)
    assert count == pytest.approx(round(count))
    return round(count)


def cells(name, metres, nested):
    """(row, column) of the sub-patches of a patch in order: row by row, or 10 m cell by 10 m cell."""
    if not (nested and name in AERIAL):
        return raster(along(name, metres), along(name, metres))
    found = []
    for north, west in raster(metres // 10, metres // 10):  # 25 aerial sub-patches of 2 m lie in a cell
        for row, column in raster(5, 5):
            found += [(5 * north + row, 5 * west + column)]
    return found


def corners(name, metres, nested):
    """By patch: (row, column) of the first pixel of each of its sub-patches."""
    edge, side, found = METRES_AND_EDGE[name][1], along(name, metres), []
    for patch_row in range(DOWN):
        for patch_column in range(RIGHT):
            north, west = patch_row * side * edge, patch_column * side * edge
            found.append([(north + row * edge, west + column * edge) for row, column in cells(name, metres, nested)])
    return found


def sides(name, metres):
    """Pixels of a tile: rows and columns."""
    edge = METRES_AND_EDGE[name][1] * along(name, metres)
    return DOWN * edge, RIGHT * edge


def told(name, metres):
    """What a sensor saw whose pixels say where they are: the row in the first band, the column in the second.

    Of a series only the last of three dates says it; the others, and the other bands, say -1.
    """
    height, width = sides(name, metres)
    dates = 1 if METRES_AND_EDGE[name][1] > 1 else 3
    values = torch.full((1, dates, EVERY_SENSOR[name], height, width), -1.0)
    for row in range(height):
        values[0, -1, 0, row] = row
    for column in range(width):
        values[0, -1, 1, :, column] = column
    return Observed(SENSORS[name], values, torch.arange(1, dates + 1)[None] * 40)


def noise(name, metres):
    """What a sensor saw, noise; one pixel of MODIS."""
    height, width = (1, 1) if name == "modis" else sides(name, metres)
    dates = 1 if SENSORS[name].is_image else 2
    values = torch.randn(
        1, dates, EVERY_SENSOR[name], height, width, generator=torch.Generator().manual_seed(len(name))
    )
    return Observed(SENSORS[name], values, torch.arange(1, dates + 1)[None] * 40)


class TellsPlaces(SeriesProjector):
    """The last date's first two bands of each pixel."""

    def forward(self, values, dates, key_mask=None):
        return values[:, :, -1, :2]


class TellsNothing(SeriesProjector):
    """Features of zero for each pixel."""

    def forward(self, values, dates, key_mask=None):
        return values.new_zeros(*values.shape[:2], WIDTH)


def encoder_of(*names, **config):
    return copy.deepcopy(built(names, tuple(config.items())))


@cache
def built(names, config):
    modalities = {name: EVERY_SENSOR[name] for name in names}
    return stand_in_encoder("tiny", modalities=modalities, width=WIDTH, depth=1, **dict(config))


def telling_places(name, **config):
    """An encoder whose projector of `name` tells of a sub-patch the places of its first and of its lower left pixel."""
    encoder = encoder_of(name, **config)
    projector, edge = encoder.projectors[name], METRES_AND_EDGE[name][1]
    if edge == 1:
        encoder.projectors[name] = TellsPlaces(SENSORS[name], WIDTH)
        return encoder
    nn.init.zeros_(projector.cells.weight)
    for band in range(2):
        projector.cells.weight.data[band, band, 0, 0] = 1
        projector.cells.weight.data[2 + band, band, edge - 1, 0] = 1
    projector.layers = nn.Identity()
    return encoder


def telling_nothing(name, **config):
    """An encoder whose projector of `name` gives zeros, so that all that is left is the code of places."""
    encoder = encoder_of(name, **config)
    projector = encoder.projectors[name]
    if isinstance(projector, SeriesProjector):
        encoder.projectors[name] = TellsNothing(SENSORS[name], WIDTH)
    else:
        nn.init.zeros_(projector.cells.weight)
        projector.layers = nn.Identity()
    return encoder


def inputs_of(module):
    """A list that fills with the positional arguments of each call of `module`."""
    calls = []
    module.register_forward_pre_hook(lambda _, given: calls.append(given))
    return calls


def code(row, column, step):
    """The code of a place in `step` units: sines, then cosines of the column, sines, then cosines of the row."""
    numbers = []
    for where, wave, k in product((column * step, row * step), (math.sin, math.cos), range(WIDTH // 4)):
        numbers += [wave(where / 10_000 ** (k / (WIDTH / 4)))]
    return numbers


def row_of_table(one, other):
    """The row of the bias table for two places, None for a token without one."""
    if one is None or other is None:
        return 7
    squared = (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2
    return 3 if squared == 0 else 4 if squared <= 2 else 5 if squared <= 12 else 6


def raster(height, width):
    return [(row, column) for row in range(height) for column in range(width)]


@pytest.mark.parametrize("form", [{}, {"aerial_order": "nested"}, {"parity": "official"}])
@pytest.mark.parametrize(("name", "metres"), SIZES)
@torch.no_grad()
def test_every_pixel_falls_into_its_patch_and_subpatch(name, metres, form):
    encoder, edge = telling_places(name, **form), METRES_AND_EDGE[name][1]
    projected = encoder.project(told(name, metres), metres)
    assert projected.grid == (DOWN, RIGHT)
    firsts = corners(name, metres, nested=bool(form))
    assert projected.x[0, :, :, :2].tolist() == [[list(map(float, one)) for one in patch] for patch in firsts]
    if edge > 1:
        lowest = [[[row + edge - 1.0, float(column)] for row, column in patch] for patch in firsts]
        assert projected.x[0, :, :, 2:4].tolist() == lowest


@pytest.mark.parametrize(
    ("extent", "metres", "counts"),
    [
        (60, 10, {"aerial": (36, 25), "s2": (36, 1), "s1-asc": (36, 1)}),
        (60, 20, {"aerial": (9, 100), "s2": (9, 4), "s1-asc": (9, 4)}),
        (60, 30, {"aerial": (4, 225), "s2": (4, 9), "s1-asc": (4, 9)}),
        (100, 50, {"aerial-flair": (4, 625), "s2": (4, 25)}),
        (120, 30, {"s2": (16, 9), "s1": (16, 9), "l7": (16, 1), "alos": (16, 1), "modis": (1, 1)}),
        (1280, 160, {"spot": (64, 256), "s2": (64, 256), "s1": (64, 256)}),
        (640, 80, {"naip": (64, 64), "l8": (64, 64), "s2": (64, 64)}),
    ],
    ids=["treesatai-10", "treesatai-20", "treesatai-30", "flair-50", "planted-30", "pastis-160", "s2naip-80"],
)
@torch.no_grad()
def test_a_tile_has_the_published_numbers_of_patches_and_subpatches(extent, metres, counts):
    for name, (patches, subpatches) in counts.items():
        encoder = telling_nothing(name)
        side = 1 if name == "modis" else round(extent / METRES_AND_EDGE[name][0])
        seen = Observed(SENSORS[name], torch.zeros(1, 1, EVERY_SENSOR[name], side, side), torch.ones(1, 1))
        assert encoder.project(seen, metres).x.shape[1:3] == (patches, subpatches), name


@pytest.mark.parametrize("name", COARSE)
@pytest.mark.parametrize("metres", [10, 20, 40, 50])
def test_patches_that_pixels_of_30_metres_do_not_fill_are_refused(name, metres):
    with pytest.raises(UsageError, match="expected a multiple of 30 m"):
        encoder_of(name).project(told(name, 30), metres)


@pytest.mark.parametrize(("name", "metres"), SIZES)
@torch.no_grad()
def test_places_in_a_patch_are_in_metres_row_by_row_whatever_the_order(name, metres):
    for order in ("raster", "nested"):
        encoder = telling_nothing(name, aerial_order=order)
        calls = inputs_of(encoder.spatial.blocks[0])
        encoder.encode({name: told(name, metres)}, metres)
        x, _, index = calls[0][:3]
        pixel, edge = METRES_AND_EDGE[name]
        places = raster(along(name, metres), along(name, metres))
        expected = torch.tensor([code(row, column, pixel * edge) for row, column in places])
        assert torch.equal(x[0, 0], encoder.spatial.token)
        assert (x[:, 1:] - expected).abs().max() < 1e-5
        rows = [[row_of_table(one, other) for other in [None, *places]] for one in [None, *places]]
        assert index.tolist() == rows


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 2), (3, 5)])
@pytest.mark.parametrize("step", [2.0, 3, 10, 30, 250])
def test_the_code_of_a_place_is_its_formula(size, step):
    expected = torch.tensor([code(row, column, step) for row, column in raster(*size)])
    assert (grid_code(size, step, WIDTH) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("placeless", [1, 2])
def test_the_rows_of_the_bias_table_are_those_of_whole_distances(placeless):
    places = [None] * placeless + raster(3, 7)
    expected = []
    for one in places:
        expected.append([])
        for other in places:
            distance = 0 if one is None or other is None else round(math.dist(one, other))
            index = distance
            if distance > 1.9:  # iRPE's piecewise index
                share = math.log(distance / 1.9) / math.log(15.2 / 1.9)
                index = int(min(round(1.9 + share * (3.8 - 1.9)), 3.8))
            expected[-1].append(7 if one is None or other is None else 3 + index)
    assert buckets((3, 7), placeless).tolist() == expected
    assert expected == [[row_of_table(one, other) for other in places] for one in places]


@pytest.mark.parametrize("names", [("l7", "s2"), ("l7", "alos", "modis"), ("modis", "aerial", "l7", "s1")])
@pytest.mark.parametrize("metres", [30, 60])
@torch.no_grad()
def test_patches_are_combined_at_places_in_tens_of_metres_and_modis_at_none(names, metres):
    encoder = encoder_of(*names)
    observed = {name: noise(name, metres) for name in names}
    tokens = encoder.tokens(observed, metres).patch
    inside, across = inputs_of(encoder.combiner.blocks[0]), inputs_of(encoder.combiner.cross)
    encoder.encode(observed, metres)
    places = raster(DOWN, RIGHT)
    codes = torch.tensor([code(row, column, metres / 10) for row, column in places])
    expected, keys = [encoder.combiner.token[None]], [None]
    if "modis" in names:
        expected.append(tokens["modis"][0])
        keys.append(None)
    for name in names:
        if name != "modis":
            expected.append(tokens[name][0] + codes)
            keys += places
    assert (inside[0][0][0] - torch.cat(expected)).abs().max() < 1e-5
    _, queries, index, _ = across[0]
    assert (queries[0] - torch.cat([torch.zeros(1, WIDTH), codes])).abs().max() < 1e-5
    assert index.tolist() == [[row_of_table(one, other) for other in keys] for one in [None, *places]]


@torch.no_grad()
def test_modis_is_one_token_of_the_tile_at_every_patch_size():
    encoder = encoder_of("modis", "s2")
    seen = noise("modis", 30)
    first = encoder.tokens({"modis": seen}, 10)
    assert first.patch["modis"].shape == (1, 1, WIDTH)
    assert first.whole == ("modis",)
    for metres in (30, 240, 500):
        assert torch.equal(encoder.tokens({"modis": seen}, metres).patch["modis"], first.patch["modis"])
    features = encoder.encode({"s2": noise("s2", 30), "modis": seen}, 30)
    assert features.patch.shape == (1, WIDTH, DOWN, RIGHT)
    other = seen._replace(values=seen.values + 1)
    moved = encoder.encode({"s2": noise("s2", 30), "modis": other}, 30)
    assert ((moved.patch - features.patch).abs().amax(1) > 1e-6).all()


@pytest.mark.parametrize(("height", "width"), [(1, 2), (2, 1), (2, 2)])
def test_modis_of_several_pixels_is_refused(height, width):
    seen = noise("modis", 30)
    seen = seen._replace(values=seen.values.expand(-1, -1, -1, height, width))
    with pytest.raises(ArgumentError, match=f"modis has {height} x {width} pixels, expected 1 x 1"):
        encoder_of("modis").project(seen, 30)


def test_modis_has_no_dense_map():
    encoder = encoder_of("s2", "modis")
    observed = {name: noise(name, 30) for name in ("s2", "modis")}
    with pytest.raises(ArgumentError, match="dense = 'modis' has no sub-patches"):
        encoder.encode(observed, 30, "modis")


def poked(seen, row, column):
    """The same with one pixel changed, on one date."""
    values = seen.values.clone()
    values[0, -1, :, row, column] += 5.0
    return seen._replace(values=values)


def kept_apart(encoder):
    """The encoder with no attention inside patches, so that sub-patches know of themselves alone."""
    for block in encoder.spatial.blocks:
        nn.init.zeros_(block.attention.projection.weight)
        nn.init.zeros_(block.attention.projection.bias)
    return encoder


COMBINED = [
    (("l7", "modis"), 60),
    (("alos", "s2", "modis"), 60),
    (("s2", "s1", "l8"), 30),
    (("aerial", "l7", "modis"), 30),
    (("aerial-flair", "s2"), 20),
    (("naip", "spot", "s1-asc"), 20),
]
DENSE = [(names, metres, name) for names, metres in COMBINED for name in names if name != "modis"]


@pytest.mark.parametrize("form", [{}, {"aerial_order": "nested"}, {"parity": "official"}])
@pytest.mark.parametrize(("names", "metres", "name"), DENSE)
@torch.no_grad()
def test_a_pixel_changes_its_own_subpatch_of_the_dense_map_alone(names, metres, name, form):
    encoder = kept_apart(encoder_of(*names, **form))
    observed = {one: noise(one, metres) for one in names}
    before = encoder.encode(observed, metres, name)
    height, width = sides(name, metres)
    edge, side = METRES_AND_EDGE[name][1], along(name, metres)
    official = "parity" in form and name in AERIAL
    for row, column in ((0, 0), (height - 1, 0), (height // 2 - 1, width - 1), (height // 2, width // 3 + edge)):
        after = encoder.encode(observed | {name: poked(observed[name], row, column)}, metres, name)
        moved = (after.dense - before.dense)[0, WIDTH:].abs().amax(0) > 1e-5
        down, right = row // edge, column // edge
        if official:  # the order of cells, laid out row by row
            number = cells(name, metres, nested=True).index((down % side, right % side))
            down, right = down // side * side + number // side, right // side * side + number % side
        assert moved.nonzero().tolist() == [[down, right]], (row, column)


@pytest.mark.parametrize(("names", "metres", "name"), DENSE)
@torch.no_grad()
def test_a_pixel_changes_no_subpatch_and_no_token_of_another_patch(names, metres, name):
    encoder = encoder_of(*names)
    observed = {one: noise(one, metres) for one in names}
    tokens, before = encoder.tokens(observed, metres), encoder.encode(observed, metres, name)
    height, width = sides(name, metres)
    row, column = height // 2, width // 3  # the first pixel of the second patch of the second row
    changed = observed | {name: poked(observed[name], row, column)}
    others, after = encoder.tokens(changed, metres), encoder.encode(changed, metres, name)
    for one in names:
        differ = (others.patch[one] - tokens.patch[one])[0].abs().amax(-1) > 1e-5
        assert differ.nonzero().flatten().tolist() == ([RIGHT + 1] if one == name else [])
    moved = (after.dense - before.dense)[0, WIDTH:].abs().amax(0) > 1e-6
    side = along(name, metres)
    assert moved.nonzero().tolist() == [[side + down, side + right] for down, right in raster(side, side)]


@pytest.mark.parametrize(("names", "metres", "name"), DENSE)
@torch.no_grad()
def test_a_dense_vector_begins_with_that_of_its_patch(names, metres, name):
    features = encoder_of(*names).encode({one: noise(one, metres) for one in names}, metres, name)
    side = along(name, metres)
    assert features.dense.shape == (1, 2 * WIDTH, DOWN * side, RIGHT * side)
    for row, column in raster(DOWN * side, RIGHT * side):
        assert torch.equal(features.dense[0, :WIDTH, row, column], features.patch[0, :, row // side, column // side])

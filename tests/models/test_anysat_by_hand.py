"""AnySat is what `anysat_by_hand` writes out, for the sensors and masks that no recorded output covers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from eokit.models.anysat.model import EVERY_SENSOR, Observed
from eokit.models.anysat.official import stand_in_encoder
from eokit.models.anysat.sensors import SENSORS
from eokit.models.parity import TOLERANCE

from . import anysat_by_hand as by_hand
from .anysat_files import published

GRID = (2, 3)
"""Patches of a tile: not square, so that rows are not columns."""

PLANTED = ("s2", "l7", "alos", "modis")
CASES = [
    (PLANTED, 30),
    (("modis", "alos", "l7"), 60),
    (("l8", "modis"), 20),
    (("l7",), 30),
    (("spot", "naip", "s1-asc"), 20),
]
IMAGES_NESTED = (("aerial", "modis"), 20)


def noise(names, metres, seed=0, share=1.0):
    """One sample of what sensors saw, a share of it seen; the rest is no number."""
    rng = np.random.default_rng(seed)
    found = {}
    for number, name in enumerate(names):
        edge = by_hand.subpatches(name, metres) * by_hand.CELL.get(name, 1)
        h, w = (1, 1) if name == "modis" else (GRID[0] * edge, GRID[1] * edge)
        dates = 1 if name in by_hand.CELL else 2 + number
        values = rng.standard_normal((dates, EVERY_SENSOR[name], h, w)).astype(np.float32)
        mask = rng.random((dates, h, w)) < share
        found[name] = by_hand.Seen(values, rng.integers(1, 367, dates), None if share == 1 else mask)
    return found


def batch_of(samples):
    """What the encoder is given for samples of equal sizes."""
    found = {}
    for name in samples[0]:
        rows = [one[name] for one in samples]
        values, dates = (torch.from_numpy(np.stack([row[part] for row in rows])) for part in (0, 1))
        valid = None if rows[0].mask is None else torch.from_numpy(np.stack([row.mask for row in rows]))
        found[name] = Observed(SENSORS[name], values, dates, valid)
    return found


def encoder_of(names, **config):
    return stand_in_encoder(
        "tiny", width=128, depth=2, modalities={name: EVERY_SENSOR[name] for name in names}, **config
    )


def weights_of(encoder):
    return {key: x.double().numpy() for key, x in published(encoder).items()}


def assert_told(features, told, number):
    """Sample `number` of the features is what was told by hand, to what float32 leaves."""
    for ours, theirs in ((features.tile[number], told.tile), (features.patch[number].permute(1, 2, 0), told.patch)):
        assert np.abs(ours.numpy() - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def assert_dense(features, told, name, places, number):
    """A dense map of `name` has each patch's vector beside its sub-patches', the k-th at `places`[k]."""
    dense = features.dense[number].permute(1, 2, 0).numpy()
    side, width = round(len(places) ** 0.5), told.patch.shape[-1]
    assert dense.shape == (GRID[0] * side, GRID[1] * side, 2 * width)
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            for token, (down, right) in enumerate(places):
                theirs = np.concatenate([told.patch[row, column], told.sub[name][row, column, token]])
                ours = dense[row * side + down, column * side + right]
                assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(told.sub[name]).max(), (row, column, token)


@pytest.mark.parametrize(("names", "metres"), CASES)
@torch.inference_mode()
def test_features_are_those_by_hand(names, metres):
    encoder = encoder_of(names, parity="official")
    samples = [noise(names, metres, seed) for seed in range(2)]
    told = [by_hand.encode(weights_of(encoder), one, metres) for one in samples]
    for name in names:
        if name == "modis":
            continue
        features = encoder.encode(batch_of(samples), metres, name)
        for number, one in enumerate(told):
            assert_told(features, one, number)
            assert_dense(features, one, name, by_hand.order(name, metres, nested=False), number)


@pytest.mark.parametrize("form", ["official", "published", "default"])
@torch.inference_mode()
def test_aerial_patches_of_several_cells_are_those_by_hand(form):
    names, metres = IMAGES_NESTED
    config = {"published": {"bias_heads": "first", "aerial_order": "nested"}, "official": {"parity": "official"}}
    encoder = encoder_of(names, **config.get(form, {}))
    first = nested = form != "default"
    sample = noise(names, metres)
    told = by_hand.encode(weights_of(encoder), sample, metres, first=first, nested=nested)
    features = encoder.encode(batch_of([sample]), metres, "aerial")
    assert_told(features, told, 0)
    # The published code unfolds the tokens row by row, although it has them in the order of the cells.
    assert_dense(features, told, "aerial", by_hand.order("aerial", metres, nested=form == "published"), 0)


@torch.inference_mode()
def test_every_head_with_its_own_bias_is_that_by_hand():
    encoder = encoder_of(PLANTED)
    sample = noise(PLANTED, 30)
    told = by_hand.encode(weights_of(encoder), sample, 30, first=False)
    assert_told(encoder.encode(batch_of([sample]), 30), told, 0)


@torch.inference_mode()
def test_masked_values_count_as_the_learned_number_in_the_published_code():
    encoder = encoder_of(PLANTED, parity="official")
    samples = [noise(PLANTED, 30, seed, share=0.6) for seed in range(2)]
    features = encoder.encode(batch_of(samples), 30)
    weights = weights_of(encoder)
    assert all(weights[f"projector_{name}.pad_parameter"] for name in PLANTED)
    for number, one in enumerate(samples):
        assert_told(features, by_hand.encode(weights, one, 30), number)


@pytest.mark.shared
@pytest.mark.parametrize("file", [f"case{n:02d}.npz" for n in range(8)])  # the rest take seconds
def test_what_is_by_hand_is_what_the_published_code_gave(shared, file):
    recorded = shared("anysat", "parity")
    entry = next(one for one in json.loads((recorded / "index.json").read_text()) if one["file"] == file)
    with np.load(recorded / file) as arrays:
        case = {key: arrays[key] for key in arrays}
    names = [name for name in entry["modalities"] if not name.endswith("_dates")]
    seen = {}
    for name in names:
        values = case[f"input_{name}"][0]
        image = name in by_hand.CELL
        seen[name] = by_hand.Seen(values[None] if image else values, None if image else case[f"input_{name}_dates"][0])
    encoder = stand_in_encoder(entry["size"], modalities={name: EVERY_SENSOR[name] for name in names})
    told = by_hand.encode(weights_of(encoder), seen, entry["patch_size_m"])
    theirs = case["output"][0]
    if entry["output"] == "dense":  # (h s, w s, 2 D), sub-patches row by row
        sub = told.sub[entry["output_modality"] or names[0]]
        h, w, count, _ = sub.shape
        side = round(count**0.5)
        for row, column, token in np.ndindex(h, w, count):
            dense = theirs[row * side + token // side, column * side + token % side]
            ours = np.concatenate([told.patch[row, column], sub[row, column, token]])
            assert np.abs(ours - dense).max() <= TOLERANCE * np.abs(theirs).max()
        return
    everything = np.concatenate([told.tile[None], told.patch.reshape(-1, len(told.tile))])
    ours = {"tile": told.tile, "patch": told.patch, "all": everything}[entry["output"]]
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()

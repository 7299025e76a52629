"""AnySat keeps the contract of encoders; its sensors, sizes and published layouts are what the paper's code has."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from eokit.data.sample import Batch, Series, Where
from eokit.errors import ArgumentError, UsageError, WeightsError
from eokit.models.anysat import PRESETS, reference
from eokit.models.anysat.model import EVERY_SENSOR, calendar
from eokit.models.anysat.official import encoder_tensors, from_official
from eokit.models.anysat.positions import bucket_choice, buckets, date_code, grid_code
from eokit.models.anysat.sensors import SENSORS, sensor_of
from eokit.models.registry import build_encoder

from .anysat_files import bare, full, published, wrapped
from .batches import random_batch, random_series
from .contract import EncoderContract, assert_same

SMALL = {"modalities": {"s2": 10, "s1-asc": 3}, "width": 64, "depth": 2, "patch_metres": 40}


class TestAnySatContract(EncoderContract):
    family = "anysat"
    small = SMALL


class TestPublishedFormContract(EncoderContract):
    family = "anysat"
    small = SMALL | {"bias_heads": "first", "aerial_order": "nested", "dense": None}


class TestMeanOfModalitiesContract(EncoderContract):
    family = "anysat"
    small = SMALL | {"tile_of": "modalities"}


def image(name: str, side: int, size: int = 2, seed: int = 5) -> Series:
    """One noise image of a sensor."""
    bands = EVERY_SENSOR[name]
    values = torch.randn(size, 1, bands, side, side, generator=torch.Generator().manual_seed(seed))
    days = torch.full((size, 1), 18_078, dtype=torch.int32)
    return Series(values, days, torch.ones(size, 1, side, side, dtype=torch.bool), name)


def series(name: str, side: int, dates: int = 3, size: int = 2, seed: int = 0) -> Series:
    """A noise series of a sensor without clouds."""
    one = random_series("s2", EVERY_SENSOR[name], size=size, side=side, dates=dates, seed=seed)
    return replace(one, valid=torch.ones_like(one.valid))


def every_sensor_on_120_metres(size: int = 2) -> Batch:
    """A tile of 120 m seen by all eleven sensors."""
    images = {name: image(name, round(120 / SENSORS[name].gsd), size) for name in SENSORS if SENSORS[name].is_image}
    grounds = {"alos": 4, "l7": 4, "modis": 1}
    rest = {
        name: series(name, grounds.get(name, 12), dates=2 + number, size=size, seed=number)
        for number, name in enumerate(SENSORS)
        if not SENSORS[name].is_image
    }
    return Batch(images | rest, tuple(Where(str(number)) for number in range(size)))


def test_all_eleven_sensors_make_one_map():
    encoder = build_encoder("anysat", None, {"width": 64, "depth": 1, "patch_metres": 30}).eval()
    features = encoder(every_sensor_on_120_metres())
    assert features.patch.shape == (2, 64, 4, 4)
    assert features.tile.isfinite().all()


def test_a_sensor_of_one_pixel_may_have_gaps_beside_finer_ones():
    encoder = build_encoder("anysat", None, {"width": 64, "depth": 1, "patch_metres": 30}).eval()
    batch = every_sensor_on_120_metres()
    for name in ("modis", "s2"):
        batch.series[name].valid[1, 0] = False
        batch.series[name].valid[0] = False
    features = encoder(batch)
    assert features.seen.shape == (2, 4, 4)
    assert features.seen.all()
    assert features.tile.isfinite().all()


@pytest.mark.parametrize("metres", [10, 20, 40, 60])
def test_the_patch_size_is_chosen_in_metres_at_each_call(metres):
    encoder = build_encoder("anysat", None, SMALL).eval()
    batch = random_batch(SMALL["modalities"], side=12)
    assert encoder(batch, patch_metres=metres).patch.shape[-1] == 120 // metres


def test_a_dense_map_has_a_vector_a_subpatch_of_its_modality():
    encoder = build_encoder("anysat", None, SMALL | {"modalities": {"s2": 10, "aerial": 4}}).eval()
    batch = Batch({"s2": series("s2", 4), "aerial": image("aerial", 200)}, (Where("a"), Where("b")))
    features = encoder(batch, patch_metres=20, dense="aerial")
    assert features.dense.shape == (2, 128, 20, 20)
    assert encoder(batch, patch_metres=20, dense="s2").dense.shape == (2, 128, 4, 4)
    first_half = features.patch.repeat_interleave(10, -1).repeat_interleave(10, -2)
    assert torch.equal(features.dense[:, :64], first_half)


def test_without_a_dense_map_the_last_block_gives_the_same_patches():
    torch.manual_seed(0)
    encoder = build_encoder("anysat", None, SMALL).eval()
    batch = random_batch(SMALL["modalities"])
    assert_same(replace(encoder(batch, dense="s2"), dense=None), encoder(batch))


@pytest.mark.parametrize("order", ["raster", "nested"])
def test_a_change_of_one_aerial_cell_stays_in_its_place_of_the_dense_map(order):
    torch.manual_seed(0)
    config = {"modalities": {"aerial": 4}, "width": 64, "depth": 1, "aerial_order": order}
    encoder = build_encoder("anysat", None, config).eval()
    batch = Batch({"aerial": image("aerial", 100, size=1)}, (Where("a"),))
    one = batch.series["aerial"]
    values = one.values.clone()
    values[..., 30:40, 70:80] += 3.0  # the cell of 2 m in row 3, column 7
    other = replace(batch, series={"aerial": replace(one, values=values)})
    moved = (encoder(other, 20, "aerial").dense - encoder(batch, 20, "aerial").dense)[0, 64:].norm(dim=0)
    assert divmod(int(moved.argmax()), 10) == (3, 7)


def test_official_parity_sees_padded_dates_and_the_default_does_not():
    batch = random_batch({"s2": 10})
    one = batch.series["s2"]
    batch = replace(batch, series={"s2": replace(one, valid=torch.ones_like(one.valid))})
    longer = {
        "values": torch.cat([batch.series["s2"].values, torch.zeros(3, 4, 10, 16, 16)], 1),
        "days": torch.cat([one.days, torch.zeros(3, 4, dtype=torch.int32)], 1),
        "valid": torch.cat([torch.ones_like(one.valid), torch.zeros(3, 4, 16, 16, dtype=torch.bool)], 1),
    }
    padded = replace(batch, series={"s2": Series(**longer, sensor=one.sensor)})
    torch.manual_seed(0)
    ours = build_encoder("anysat", None, SMALL | {"modalities": {"s2": 10}}).eval()
    theirs = build_encoder("anysat", None, ours.config_dict() | {"parity": "official"}).eval()
    theirs.load_state_dict(ours.state_dict())
    assert_same(ours(padded), ours(batch))
    assert (theirs(padded).tile - theirs(batch).tile).abs().max() > 0.01


def test_the_vector_of_a_sample_is_the_mean_of_what_was_seen():
    torch.manual_seed(0)
    encoder = build_encoder("anysat", None, SMALL).eval()
    batch = random_batch(SMALL["modalities"], side=8)
    for one in batch.series.values():
        one.valid[...] = True
        one.valid[0, :, :4, 4:] = False  # the upper right of the four patches of the first sample
    batch.series["s2"].valid[1, :, :4, :4] = False  # one modality's upper left in the second
    features, tokens = encoder(batch), encoder.tokens(encoder.observe(batch), 40).patch
    hidden = {"s2": {(0, 1), (1, 0)}, "s1-asc": {(0, 1)}}
    for row in range(3):
        patches = [features.patch[row, :, n // 2, n % 2] for n in range(4) if (row, n) != (0, 1)]
        parts = [tokens[name][row, n] for name in tokens for n in range(4) if (row, n) not in hidden[name]]
        means = {"patches": sum(patches) / len(patches), "modalities": sum(parts) / len(parts)}
        for tile_of, expected in ({"token": features.tile[row]} | means).items():
            torch.testing.assert_close(encoder(batch, tile_of=tile_of).tile[row], expected, atol=2e-5, rtol=0)
    built = build_encoder("anysat", None, encoder.config_dict() | {"tile_of": "patches"}).eval()
    built.load_state_dict(encoder.state_dict())
    assert torch.equal(built(batch).tile, encoder(batch, tile_of="patches").tile)


def test_a_vector_of_a_sample_of_something_else_is_refused():
    with pytest.raises(UsageError, match="tile_of = 'median'; it is one of token, patches, modalities"):
        build_encoder("anysat", None, SMALL | {"tile_of": "median"})


def test_attending_over_heads_keeps_tokens_apart():
    torch.manual_seed(0)
    config = {"modalities": {"s2": 10}, "width": 64, "depth": 1, "combiner": "heads"}
    encoder = build_encoder("anysat", None, config)
    tokens = torch.randn(2, 5, 64)
    changed = tokens.clone()
    changed[:, 2] += 1.0
    block = encoder.combiner.blocks[0]
    assert ((block(changed) - block(tokens)).abs().amax((0, 2)) > 0).tolist() == [False, False, True, False, False]


def test_the_sizes_have_the_published_number_of_weights():
    count = sum(one.numel() for one in build_encoder("anysat", "base").parameters())
    assert count == 125_905_447  # counted on the published module


def test_the_five_distances_of_the_bias():
    table = buckets((6, 6), 1)
    assert table[0].unique().tolist() == [7]
    assert table[1:, 1:].unique().tolist() == [3, 4, 5, 6]
    first = table[1, 1:].view(6, 6)
    assert first[0, 0] == 3
    assert first[1, 1] == 4  # squared distance 2
    assert first[2, 0] == 5
    assert first[2, 3] == 6  # 13
    assert bucket_choice(table).sum(1).eq(1).all()


def test_places_are_codes_of_columns_then_rows():
    code = grid_code((2, 3), 10.0, 16)
    column, row = code[:, :8].view(2, 3, 8), code[:, 8:].view(2, 3, 8)
    assert torch.equal(column[0], column[1])
    assert torch.equal(row[:, 0], row[:, 2])
    assert code[1, 0] == pytest.approx(torch.sin(torch.tensor(10.0)).item())


def test_dates_are_codes_of_sines_and_cosines_in_pairs():
    code = date_code(torch.tensor([[40]]), 48, 367)
    assert code[0, 0, 0] == pytest.approx(torch.sin(torch.tensor(40.0)).item(), abs=1e-6)
    third = 367 ** (2 / 48)
    assert third == pytest.approx(1.279, abs=1e-3)
    assert code[0, 0, 3] == pytest.approx(torch.cos(torch.tensor(40 / third)).item(), abs=1e-5)


def test_a_season_that_is_no_day_is_refused():
    with pytest.raises(UsageError, match="season = 'september'; it is a day, such as 2018-09-01"):
        build_encoder("anysat", "tiny", {"season": "september"})


def test_dates_count_from_the_year_or_from_the_season():
    days = torch.tensor([[17_775, 18_261]])  # 2018-09-01, 2019-12-31
    assert calendar(days, None).tolist() == [[244, 365]]
    assert calendar(days, "2018-09-01").tolist() == [[0, 486]]


@pytest.mark.parametrize(
    ("name", "bands", "sensor"),
    [("s1-asc", 2, "s1-asc"), ("s1-asc", 3, "s1"), ("s1-des", 2, "s1-asc"), ("s1-des", 3, "s1"), ("l8", 11, "l8")],
)
def test_a_modality_is_a_sensor_by_name_and_bands(name, bands, sensor):
    assert sensor_of(name, bands).name == sensor


def test_a_modality_that_is_no_sensor_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'s2' of 4 bands is none it takes; it takes .*s2 \(10\)"):
        sensor_of("s2", 4)


def test_an_image_that_does_not_fill_patches_is_refused():
    encoder = build_encoder("anysat", None, SMALL)
    with pytest.raises(ArgumentError, match="s2 of 6 x 6 pixels does not divide into patches of 4 pixels"):
        encoder(Batch({"s2": series("s2", 6)}, (Where("a"), Where("b"))))


def test_a_patch_size_that_subpatches_do_not_fill_is_refused():
    encoder = build_encoder("anysat", None, {"modalities": {"l7": 6}, "width": 64, "depth": 1})
    with pytest.raises(UsageError, match="patch_metres = 40: l7 has sub-patches of 30 m, expected a multiple of 30 m"):
        encoder(Batch({"l7": series("l7", 4)}, (Where("a"), Where("b"))))


def test_modalities_of_different_extent_are_refused():
    encoder = build_encoder("anysat", None, SMALL)
    batch = Batch({"s2": series("s2", 8), "s1-asc": series("s1", 4)}, (Where("a"), Where("b")))
    with pytest.raises(ArgumentError, match="cover different ground, patches of 40 m: s2 2 x 2, s1-asc 1 x 1"):
        encoder(batch)


def observed_on_120_metres(names):
    """What sensors saw, without a mask."""
    every = every_sensor_on_120_metres()
    encoder = build_encoder("anysat", None, {"width": 64, "depth": 2, "patch_metres": 30})
    return {name: one for name, one in encoder.observe(every).items() if name in names}


@pytest.mark.parametrize("names", [("s2", "s1", "spot"), ("aerial", "s2", "l7", "modis"), ("modis", "l8", "naip")])
@pytest.mark.parametrize("form", [{}, {"bias_heads": "first", "aerial_order": "nested"}, {"combiner": "heads"}])
@pytest.mark.parametrize("dense", [False, True])
def test_the_fused_forward_is_the_plain_one(names, form, dense):
    torch.manual_seed(0)
    encoder = build_encoder("anysat", "tiny", {"patch_metres": 30} | form).eval()  # narrower: groups of 2, no digits
    for name, weight in encoder.named_parameters():
        if name.endswith("bias.table"):
            torch.nn.init.normal_(weight, std=0.3)
    observed = observed_on_120_metres(names)
    whose = next(name for name in names if name != "modis") if dense else None
    with torch.no_grad():
        ours, plain = encoder.encode(observed, 30, whose), reference.encode(encoder, observed, 30, whose)
    assert_same(ours, plain)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return build_encoder("anysat", "tiny")


@pytest.mark.parametrize("layout", [bare, wrapped, full])
def test_every_published_layout_loads_the_encoder(tiny, layout):
    loaded = from_official(layout(published(tiny)), "AnySat.pth")
    for key, x in loaded.state_dict().items():
        assert torch.equal(x, tiny.state_dict()[key]), key
    assert (loaded.config.bias_heads, loaded.config.aerial_order) == ("first", "nested")


def test_a_partial_checkpoint_names_the_missing_keys(tiny):
    state = published(tiny)
    del state["blocks.1.attn.qkv.bias"]
    with pytest.raises(WeightsError, match=r"tensors match AnySat: missing blocks\.1\.attn\.qkv\.bias"):
        from_official(state, "AnySat.pth")


@pytest.mark.parametrize("key", ["blocks.1.attn.qkv.weight", "blocks.2.attn.q_learned", "blocks.1.mlp.fc2.bias"])
def test_a_single_missing_tensor_of_a_block_is_named_alone(tiny, key):
    state = published(tiny)
    del state[key]
    told = rf"{len(state)} of {len(state) + 1} tensors match AnySat: missing {re.escape(key)}$"
    with pytest.raises(WeightsError, match=told):
        from_official(state, "AnySat.pth")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_of_a_missing_block_the_keys_are_named(tiny, number):
    state = {key: x for key, x in published(tiny).items() if not key.startswith(f"blocks.{number}.")}
    with pytest.raises(WeightsError, match=rf"tensors match AnySat: (missing blocks\.{number}\.\S+; )+and \d+ more$"):
        from_official(state, "AnySat.pth")


def test_a_checkpoint_without_blocks_is_told_what_is_expected(tiny):
    state = {key: x for key, x in published(tiny).items() if not key.startswith("blocks.")}
    with pytest.raises(WeightsError, match="holds 0 blocks of width 256, expected an AnySat such as 6 of 768"):
        from_official(state, "AnySat.pth")


@pytest.mark.parametrize("key", ["cls_token", "blocks.2.attn.q_learned", "blocks.2.attn.rpe_k.lookup_table_weight"])
def test_a_tensor_without_the_leading_ones_of_the_published_one_is_refused(tiny, key):
    state = published(tiny)
    expected, state[key] = tuple(state[key].shape), state[key].squeeze()
    told = f"{key} is {tuple(state[key].shape)}, the model has {expected}"
    with pytest.raises(WeightsError, match=re.escape(told)):
        from_official(state, "AnySat.pth")


def test_a_checkpoint_of_another_shape_names_the_key(tiny):
    state = published(tiny)
    state["projector_s2.patch_embed.inconv.0.weight"] = torch.zeros(32, 12)
    with pytest.raises(WeightsError, match=r"projector_s2\.patch_embed\.inconv\.0\.weight is \(32, 12\)"):
        from_official(state, "AnySat.pth")


def test_duplicates_that_differ_are_refused(tiny):
    state = wrapped(published(tiny))
    state["spatial_encoder.predictor_norm.weight"] = torch.zeros(256)
    with pytest.raises(WeightsError, match=r"spatial_encoder\.predictor_norm\.weight differs"):
        encoder_tensors(state, "AnySat.pth")


def test_something_else_is_no_checkpoint_of_anysat():
    with pytest.raises(WeightsError, match="holds no AnySat encoder"):
        encoder_tensors({"conv1.weight": torch.zeros(3)}, "resnet.pth")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds(preset):
    assert build_encoder("anysat", preset).width == PRESETS[preset].get("width", 768)


def test_a_modality_of_another_number_of_bands_is_read_by_the_sensor_that_has_them():
    torch.manual_seed(0)
    encoder = build_encoder("anysat", None, SMALL | {"modalities": {"s1-asc": 2, "s1": 3}}).eval()
    one = random_series("s1-asc", 3)
    where = tuple(Where(str(number)) for number in range(3))
    assert encoder.takes("s1-asc", 3)
    assert_same(encoder(Batch({"s1-asc": one}, where)), encoder(Batch({"s1": one}, where)), tolerance=0)
    assert encoder(Batch({"s1-des": one}, where), dense="s1-des").dense.shape == (3, 128, 16, 16)


def test_it_takes_only_what_it_has_a_projector_for():
    encoder = build_encoder("anysat", None, SMALL)
    assert [encoder.takes("s2", 10), encoder.takes("s1-des", 3)] == [True, True]
    assert not any((encoder.takes("s2", 4), encoder.takes("s1-asc", 2), encoder.takes("spot", 3)))


def test_it_expects_the_bands_and_pixels_of_the_sensor():
    encoder = build_encoder("anysat", None, SMALL | {"modalities": {"aerial": 4}})
    assert encoder.expected("aerial", 4) == (("NIR", "G", "B", "R"), 0.2)
    assert encoder.expected("s2", 10) is None

"""Statistics are those of numpy over all valid pixels, exactly, however the pixels were split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.data.statistics import Histogram, make_preprocessing
from eokit.data.writer import ModalitySpec
from eokit.errors import ArgumentError, DataError
from tests.data.stores import NODATA, MemorySource, make_source, make_store

SPEC = ModalitySpec("s2", "sentinel-2", ("B02", "B03"), (2, 4, 4), scale=0.5)


@pytest.fixture(scope="module")
def source():
    return make_source((5, 9, 0, 12))


@pytest.fixture(scope="module")
def store(tmp_path_factory, source):
    return make_store(tmp_path_factory.mktemp("statistics") / "toy.zarr", source)


def valid_pixels(source, modality, folds):
    """(C, n) valid stored values of all samples of `folds`."""
    parts = [source.read(entry, modality) for entry in source.entries if entry.fold in folds]
    return np.concatenate([part.transpose(1, 0, 2, 3)[:, part[:, 0] != NODATA] for part in parts], axis=1)


@pytest.mark.parametrize(("modality", "scale"), [("s2", 1.0), ("s1-asc", 1 / 256)])
def test_every_fold_has_the_mean_std_and_quantiles_of_its_valid_pixels(store, source, modality, scale):
    for fold in (1, 2):
        facts = store.statistics["modalities"][modality]["folds"][str(fold)]
        values = valid_pixels(source, modality, [fold]) * scale
        assert facts["count"] == values.shape[1]
        np.testing.assert_allclose(facts["mean"], values.mean(1), rtol=1e-12)
        np.testing.assert_allclose(facts["std"], values.std(1), rtol=1e-12)
        np.testing.assert_array_equal(facts["quantiles"]["0.5"], np.quantile(values, 0.5, 1, method="inverted_cdf"))
        np.testing.assert_array_equal([facts["min"], facts["max"]], [values.min(1), values.max(1)])


def test_nodata_share_counts_pixels_of_all_dates(store, source):
    stored = np.concatenate([source.read(entry, "s2")[:, 0].ravel() for entry in source.entries])
    found = store.statistics["modalities"]["s2"]["all"]["nodata_share"]
    assert found == pytest.approx((stored == NODATA).mean(), rel=1e-12)


@pytest.mark.parametrize("folds", [[1], [1, 2], None])
def test_preprocessing_pools_the_chosen_folds(store, source, folds):
    one = make_preprocessing(store, ["s1-asc"], folds).inputs["s1-asc"]
    values = valid_pixels(source, "s1-asc", folds or [1, 2]) / 256
    np.testing.assert_allclose(one.mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(one.std, values.std(1), rtol=1e-12)
    assert (one.sensor, one.bands, one.scale, one.nodata) == ("sentinel-1", ("VV", "VH"), 1 / 256, NODATA)


def test_normalised_pixels_have_mean_0_and_std_1(store):
    preprocessing = make_preprocessing(store, ["s2"])
    parts = [preprocessing.apply("s2", store.read("s2", sample)) for sample in range(len(store))]
    values = np.concatenate([v.transpose(0, 2, 3, 1)[valid] for v, valid in parts]).astype(np.float64)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(0), 1, atol=1e-5)


def test_a_constant_band_becomes_zero_and_not_infinite(tmp_path):
    source = make_source((3,), size=8)
    source.read = lambda entry, modality: np.full_like(make_source((3,), size=8).read(entry, modality), 700)
    store = make_store(tmp_path / "toy.zarr", source)
    values, _ = make_preprocessing(store, ["s2"]).apply("s2", store.read("s2", 0))
    assert (values == 0).all()


def test_folds_without_a_valid_pixel_are_refused(store):
    with pytest.raises(DataError, match=r"s2 has no valid pixel in folds \[9\]; its folds are 1, 2"):
        make_preprocessing(store, ["s2"], [9])


def test_an_unknown_modality_is_refused(store):
    with pytest.raises(DataError, match="no modality 'planet'; it has s2, s1-asc"):
        make_preprocessing(store, ["planet"])


def test_an_all_cloud_sample_counts_as_nodata_only(tmp_path):
    source = make_source((3,), size=8)
    source.read = lambda entry, modality: np.full_like(make_source((3,), size=8).read(entry, modality), NODATA)
    store = make_store(tmp_path / "toy.zarr", source)
    assert store.statistics["modalities"]["s2"]["all"] == {"count": 0, "nodata_share": 1.0}
    with pytest.raises(DataError, match="no valid pixel"):
        make_preprocessing(store, ["s2"])


@pytest.mark.parametrize("second", [(), (0, 1, 0, 0), (3, 1, 1, 1)])
def test_nodata_that_is_not_in_all_bands_of_a_pixel_is_refused(second):
    values = np.ones((4, 2, 2, 2), np.int16)
    for place in [(0, 0, 1, 1), *([second] if second else [])]:
        values[place] = NODATA
    with pytest.raises(ArgumentError, match=r"0 times in all bands at once; expected in all bands of a pixel or none"):
        Histogram(2, "int16", NODATA).add(1, values)


def test_a_histogram_is_kept_as_numpy_2_0_can_keep_it(monkeypatch):
    """Numpy takes the argument allow_pickle of savez from 2.1 on; 2.0 would store it as one more array."""
    savez = np.savez

    def of_numpy_2_0(file, *args, **arrays):
        savez(file, *args, **{name: np.asarray(array) for name, array in arrays.items() if name != "allow_pickle"})
        assert "allow_pickle" not in arrays

    monkeypatch.setattr(np, "savez", of_numpy_2_0)
    histogram = Histogram(2, "int16", None)
    histogram.add(1, np.ones((4, 2, 2, 2), np.int16))
    kept = Histogram(2, "int16", None)
    kept.add_bytes(histogram.to_bytes())
    np.testing.assert_array_equal(kept.counts[1], histogram.counts[1])


def test_an_image_without_nodata_counts_every_pixel(tmp_path):
    source = make_source((1, 1), size=8, spot=True)
    store = make_store(tmp_path / "toy.zarr", MemorySource(source.spec, source.entries))
    values = np.concatenate([source.read(entry, "spot") for entry in source.entries]).transpose(1, 0, 2, 3)
    facts = store.statistics["modalities"]["spot"]["all"]
    assert (facts["count"], facts["nodata_share"]) == (values[0].size, 0.0)
    np.testing.assert_allclose(facts["mean"], values.reshape(3, -1).mean(1), rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["int16", "uint16", "uint8"]))
def test_the_split_into_parts_changes_nothing(data, dtype):
    info = np.iinfo(dtype)
    edges = st.sampled_from([info.min, info.min + 1, 0, 1, info.max])
    values = np.array(data.draw(st.lists(st.integers(info.min, info.max) | edges, min_size=32, max_size=32)), dtype)
    values = values.reshape(4, 2, 2, 2)
    cut = data.draw(st.integers(0, 4))
    whole, parts = Histogram(2, dtype, None), Histogram(2, dtype, None)
    whole.add(1, values)
    for part in (values[cut:], values[:cut]):
        one = Histogram(2, dtype, None)
        one.add(1, part)
        parts.add_bytes(one.to_bytes())
    assert parts.summary(SPEC) == whole.summary(SPEC)
    flat = values.transpose(1, 0, 2, 3).reshape(2, -1) * 0.5
    np.testing.assert_allclose(whole.summary(SPEC)["all"]["mean"], flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(whole.summary(SPEC)["all"]["std"], flat.std(1), rtol=1e-9, atol=1e-9)

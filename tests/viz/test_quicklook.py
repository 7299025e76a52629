"""The quick look of a store, its colours and its stamp."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from eokit.data.crops import PASTIS_CLASSES
from eokit.data.spec import ModalitySpec
from eokit.errors import SetupError, TargetError
from eokit.viz import quicklook, style
from eokit.viz.colors import BACKGROUND_COLOUR, VOID_COLOUR, class_colors
from eokit.viz.quicklook import draw_quicklook
from eokit.viz.series import choose_quantity, class_series, clearest_dates, find_bands
from tests.data.stores import BANDS, make_source, make_store

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("quicklook") / "toy.zarr", make_source(bands=10))


def texts(monkeypatch, store, tmp_path, **options):
    """Every word on the picture."""
    return " | ".join(text.get_text() for text in figure_of(monkeypatch, store, tmp_path, **options).findobj(Text))


def figure_of(monkeypatch, store, tmp_path, **options):
    """The figure that would be saved."""
    figures = []
    monkeypatch.setattr(quicklook, "save_figure", lambda figure, path: figures.append(figure) or path)
    draw_quicklook(store, tmp_path / "look.png", **options)
    return figures[0]


def only(store, *, modalities=None, labels=None):
    """The store as if it held only these."""
    import copy

    part = copy.copy(store)
    part.modalities = {name: store.modalities[name] for name in modalities or store.modalities}
    part.labels = {name: store.labels[name] for name in (store.labels if labels is None else labels)}
    return part


def test_a_store_becomes_a_picture(store, tmp_path):
    assert draw_quicklook(store, tmp_path / "new" / "look.png").read_bytes().startswith(PNG)


def test_a_picture_of_synthetic_data_says_so(store, tmp_path, monkeypatch):
    assert "SYNTHETIC" in texts(monkeypatch, store, tmp_path)


def test_a_picture_of_real_data_does_not(store, tmp_path, monkeypatch):
    real = only(store)
    real.attributes = store.attributes | {"synthetic": False, "title": "A real one"}
    assert "SYNTHETIC" not in texts(monkeypatch, real, tmp_path)


def test_void_gets_no_curve(store, tmp_path, monkeypatch):
    words = texts(monkeypatch, store, tmp_path)
    assert "corn (" in words
    assert "void (" not in words


def test_radar_alone_is_shown_as_vh(store, tmp_path, monkeypatch):
    assert " VH" in texts(monkeypatch, only(store, modalities=["s1-asc"]), tmp_path)


def test_a_store_without_labels_shows_its_images(store, tmp_path, monkeypatch):
    words = texts(monkeypatch, only(store, labels=[]), tmp_path)
    assert "labels" not in words
    assert "2018-" in words


def test_every_picture_is_named_and_its_stretch_told(tmp_path, monkeypatch):
    fine = make_store(tmp_path / "fine.zarr", make_source(counts=(6, 6), size=16, bands=10, spot=True))
    figure = figure_of(monkeypatch, fine, tmp_path, sample=0)
    titles = [axes.get_title() for axes in figure.findobj(Axes) if axes.images]
    named = [" ".join(title.split(" ")[:-1]) for title in titles if title[-10:-6] in ("2018", "2019")]
    assert named == ["spot"] + ["s2"] * 4 + ["s1-asc VH"] * 6
    words = " | ".join(text.get_text() for text in figure.findobj(Text))
    assert "black to white: 1st to 98th percentile of the dates shown" in words
    assert "; spot 0 to 255, s2 " in words
    assert "; s1-asc VH " in words


def test_a_modality_of_one_pixel_is_no_image(store, tmp_path, monkeypatch):
    part = only(store)
    part.modalities["s1-asc"] = replace(store.modalities["s1-asc"], shape=(2, 1, 1))
    assert "the other modalities" not in texts(monkeypatch, part, tmp_path)


def test_a_sample_without_dates_is_drawn_without_images(store, tmp_path):
    draw_quicklook(store, tmp_path / "look.png", sample=2)


def test_one_date_gives_an_image_and_no_curve(tmp_path, monkeypatch):
    single = make_store(tmp_path / "single.zarr", make_source(counts=(1, 1), bands=10))
    assert "median" not in texts(monkeypatch, only(single, modalities=["s2"]), tmp_path)


def two_seasons(path, **options):
    """A store whose last two patches were seen a year after the others."""
    source = make_source(counts=(6, 6, 6, 6), bands=10, **options)
    late = [
        replace(one, days={name: days + 365 for name, days in one.days.items()}) if one.id in ("p2", "p3") else one
        for one in source.entries
    ]
    return only(make_store(path / "two.zarr", replace(source, entries=late)), modalities=["s2"])


@pytest.mark.parametrize(("sample", "months"), [(0, "2018-09 to 2018-10"), (3, "2019-09 to 2019-10")])
def test_curves_are_those_of_the_season_of_the_patch(tmp_path, monkeypatch, sample, months):
    words = texts(monkeypatch, two_seasons(tmp_path), tmp_path, sample=sample)
    assert f"patch p{sample} (fold " in words
    assert f"in the season of this patch: median and quartiles of NDVI over 2 patches, {months}" in words


def test_the_patch_shown_is_among_those_of_the_curves(tmp_path, monkeypatch):
    monkeypatch.setattr(quicklook, "SAMPLES", 1)
    assert "NDVI over 1 patch, 2019-09" in texts(monkeypatch, two_seasons(tmp_path), tmp_path, sample=3)


def test_cells_without_a_class_hold_the_medians_of_all(store, tmp_path, monkeypatch):
    (axes,) = [one for one in figure_of(monkeypatch, store, tmp_path).findobj(Axes) if "all classes" in one.get_title()]
    assert [line.get_label() for line in axes.lines] == ["background", "meadow", "corn"]
    assert axes.get_subplotspec().colspan == range(3, 6)


def test_an_eight_bit_image_is_shown_in_true_colour(tmp_path, monkeypatch):
    spot = make_store(tmp_path / "spot.zarr", make_source(counts=(3,), size=16, spot=True))
    assert "patch p0 (fold 1): spot" in texts(monkeypatch, only(spot, modalities=["spot"]), tmp_path)


def test_true_colour_and_ndvi_use_the_bands_nearest_in_wavelength(store):
    spec = store.modalities["s2"]
    found = find_bands(spec, ("red", "green", "blue", "infrared"))
    assert [spec.bands[band] for band in found] == ["B04", "B03", "B02", "B08"]
    assert choose_quantity(spec).name == "NDVI"


def test_a_sensor_without_infrared_has_no_ndvi():
    spec = ModalitySpec("spot", "spot-6", ("R", "G", "B"), (3, 8, 8), "uint8", nodata=None)
    assert choose_quantity(spec).name != "NDVI"


def test_cloudy_and_shaded_dates_are_not_chosen():
    values = np.full((9, 8, 8), 500.0, dtype=np.float32)
    values[[0, 4]] = 8000.0
    values[[1, 7]] = 50.0
    values[3] = np.nan
    assert not set(clearest_dates(values, 3)) & {0, 1, 3, 4, 7}


def test_a_clear_date_is_chosen_where_most_are_cloudy():
    values = np.full((10, 8, 8), 6000.0, dtype=np.float32)
    values[[0, 3, 6, 9]] = 500.0
    assert clearest_dates(values, 2).tolist() == [0, 6]


def test_dates_of_the_picture_are_spread_over_the_season():
    dates = clearest_dates(np.zeros((50, 4, 4), np.float32), 5)
    assert (np.diff(dates) > 0).all()
    assert np.array_equal(np.asarray(dates) // 10, np.arange(5))


def test_quartiles_by_class_are_those_of_its_pixels(store):
    series = class_series(only(store), "s1-asc", "semantic", [0])
    vh = store.read("s1-asc", 0)[:, 1].astype(float)
    vh[vh == -32768] = np.nan
    inside = store.read_label("semantic", 0) == 2
    expected = np.nanpercentile(vh[0][inside] / 256, (25, 50, 75))
    np.testing.assert_allclose(series.values[:, 2, 0], expected)
    assert series.pixels[2] == inside.sum()
    assert series.label == "semantic"


def test_classes_of_pastis_have_twenty_different_colours():
    colours = class_colors(PASTIS_CLASSES)
    assert len(set(colours)) == 20
    assert colours[0] == BACKGROUND_COLOUR
    assert colours[-1] == VOID_COLOUR


def test_the_colours_of_crops_stay_apart_for_colour_blind_eyes():
    for matrix, least in ((np.eye(3), 28), (PROTAN, 21), (DEUTAN, 21)):
        lab = to_lab(np.array(class_colors(PASTIS_CLASSES)), matrix)
        distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        # Background against void is left out: both are no crop, and void is drawn as nothing.
        distance[0, -1] = distance[-1, 0] = np.inf
        assert distance[~np.eye(20, dtype=bool)].min() > least


def test_unknown_classes_get_colours_too():
    assert len(set(class_colors(["forest", "water", "Corn"]))) == 3
    assert len(set(class_colors(12))) == 12


def test_the_same_class_has_the_same_colour_in_another_legend():
    assert class_colors(["Corn", "Meadow"])[0] == class_colors(PASTIS_CLASSES)[3]


def test_missing_matplotlib_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SetupError, match=r"eokit\[viz\]"):
        style.new_figure(1, 1)


def test_a_picture_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="cannot be written"):
        style.save_figure(style.new_figure(1, 1), tmp_path / "file" / "look.png")


def test_the_bands_of_the_toy_are_those_of_sentinel_2(store):
    assert store.modalities["s2"].bands == BANDS


# Severity 1 of Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision
# Deficiency", IEEE TVCG 2009, on linear RGB.
PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])


def to_lab(colours, matrix):
    """CIELAB (D65) of sRGB 0..255 as seen through `matrix`."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ matrix.T, 0, 1)
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.0888]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)

"""What is handed to the picture of a map: dates, labels, one stretch, and words that say what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eokit.mapping import draw, picture
from eokit.mapping.inference import Predictor, _name
from eokit.mapping.predict import PredictSettings, predict_with
from eokit.mapping.scene import Area, is_south
from tests.data.stores import CLASSES, make_source, make_store
from tests.mapping.scenes import PixelModel, predictor, write_scene
from tests.mapping.test_patches import MODEL, moved, shifted


class FourClasses(PixelModel):
    """The stand-in for a model, with the four classes of the toy store; the last one is never predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.cat([self.weights, torch.zeros(1, 4)])

    def __call__(self, batch):
        logits, seen = super().__call__(batch)
        logits[:, 3] = -1e9
        return logits, seen


@pytest.fixture
def drawn(monkeypatch):
    """`drawn(predictor, source, out)`: views, legend and title of the picture."""

    def make(model, source: Path, out: Path):
        kept = []
        monkeypatch.setattr(draw, "draw_map", lambda *given: kept.append(given))
        settings = PredictSettings(bundle=Path("unused"), source=source, out=out, tile=32, overlap=8, quiet=True)
        predict_with(model, settings)
        _, views, legend, title, _ = kept[0]
        return views, legend, title

    return make


def of_classes(classes=CLASSES, label="semantic") -> Predictor:
    return Predictor(FourClasses(), MODEL, classes, 4, "stub", torch.device("cpu"), name="crops", label=label)


def far_apart(path: Path):
    return make_store(path, moved(make_source((3, 3, 3, 3)), transform=shifted(0, 3000, 6000, 9000)))


def test_labels_of_a_store_stand_beside_its_map(drawn, tmp_path):
    store = far_apart(tmp_path / "toy.zarr")
    views, _, _ = drawn(of_classes(), store.path, tmp_path / "map.tif")
    for sample, view in enumerate(views):
        assert view.title == f"patch p{sample}"
        np.testing.assert_array_equal(view.truth, store.read_label("semantic", sample))


def test_labels_of_a_mosaic_lie_where_its_samples_lie(drawn, tmp_path):
    store = make_store(tmp_path / "toy.zarr", moved(make_source((3, 3)), transform=shifted(0, 60)))
    (view,), _, _ = drawn(of_classes(), store.path, tmp_path / "map.tif")
    np.testing.assert_array_equal(view.truth[:, :48], store.read_label("semantic", 0))
    np.testing.assert_array_equal(view.truth[:, 60:], store.read_label("semantic", 1))
    assert (view.truth[:, 48:60] == 255).all()


@pytest.mark.parametrize("model", [of_classes(label="crops"), of_classes(("a", "b", "c", "d"))])
def test_labels_of_another_layer_or_other_classes_are_not_shown(drawn, tmp_path, model):
    views, _, _ = drawn(model, far_apart(tmp_path / "toy.zarr").path, tmp_path / "map.tif")
    assert [view.truth for view in views] == [None] * 4


def test_a_folder_of_geotiffs_has_no_labels_and_gives_its_name(drawn, tmp_path):
    views, legend, title = drawn(predictor(), write_scene(tmp_path / "valley"), tmp_path / "map.tif")
    assert views[0].truth is None
    assert legend.title == "share of the whole map"
    assert title == "map.tif: semantic classes by model\nvalley, EPSG:32631"


def test_the_title_says_what_is_mapped_and_how_much_is_shown(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "EXAMPLES", 2)
    _, legend, title = drawn(of_classes(), far_apart(tmp_path / "toy.zarr").path, tmp_path / "map.tif")
    assert title == "map.tif: semantic classes by crops\nA synthetic toy, EPSG:32631, 2 of 4 patches"
    assert legend.title == "share of the whole map\n(all 4 patches)"


def test_a_class_that_only_the_labels_have_is_in_the_legend_without_a_share(drawn, tmp_path):
    _, legend, _ = drawn(of_classes(), far_apart(tmp_path / "toy.zarr").path, tmp_path / "map.tif")
    shares = {entry.name: entry.share for entry in legend.entries}
    assert shares.pop("void") is None
    assert sum(share for share in shares.values() if share is not None) == pytest.approx(1, abs=1e-5)


def test_all_patches_are_stretched_alike():
    dark, bright = np.full((3, 10, 10), 100, np.int16), np.full((3, 10, 10), 1000, np.int16)
    dark[:, 0] = bright[:, 0] = 500
    one, two = picture.stretch([dark, bright])
    np.testing.assert_array_equal(one[0], two[0])
    assert one[5, 5].max() < one[0, 0].min() < two[5, 5].min()


def test_patches_with_common_dates_are_shown_on_one_day(drawn, tmp_path):
    source = moved(make_source((3, 3)), transform=shifted(0, 3000))
    views, _, _ = drawn(of_classes(), make_store(tmp_path / "toy.zarr", source).path, tmp_path / "map.tif")
    assert len({view.rgb_title for view in views}) == 1


def test_a_bundle_in_a_run_is_called_by_its_run(tmp_path):
    assert _name(tmp_path / "wheat" / "bundle") == "wheat"
    assert _name(tmp_path / "crops") == "crops"


@pytest.mark.parametrize(("crs", "top", "south"), [("EPSG:32631", 5e6, False), ("EPSG:32731", 5e6, True)])
def test_the_side_of_the_equator_is_known(crs, top, south):
    assert is_south(Area(crs, (10, 0, 500_000, 0, -10, top), 100, 100, (), {})) is south


def test_a_local_grid_lies_on_no_side_of_the_equator():
    local = 'LOCAL_CS["field",UNIT["metre",1]]'
    assert not is_south(Area(local, (10, 0, 0, 0, -10, -1e6), 100, 100, (), {}))

"""What a task takes from a store: folds, label layers, matching inputs, majority labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eokit.data.preprocessing import Preprocessing
from eokit.data.spec import LabelSpec, ModalitySpec
from eokit.errors import DataError, UsageError, WeightsError
from eokit.tasks.inputs import Reading, batches, choose_split, label_layer, majority, match_inputs, thin_out
from tests.tasks.toy import BANDS, preprocessing


def store(bands: tuple[str, ...] = BANDS, sensor: str = "sentinel-2", **changes) -> SimpleNamespace:
    spec = ModalitySpec("s2", sensor, bands, (len(bands), 8, 8), **changes)
    labels = {
        "semantic": LabelSpec("semantic", "uint8", (8, 8), ("a", "b"), None),
        "parcel": LabelSpec("p", "int32", (8, 8)),
    }
    return SimpleNamespace(path=Path("toy.zarr"), modalities={"s2": spec}, labels=labels)


def test_five_folds_are_split_as_pastis_does():
    """The first run of fold_sequence in VSainteuf/utae-paps, train_semantic.py."""
    assert choose_split([1, 2, 3, 4, 5]) == ((1, 2, 3), (4,), (5,))


def test_folds_given_are_kept_and_the_free_ones_shared_out():
    assert choose_split(range(1, 6), test=(4, 5)) == ((1, 2), (3,), (4, 5))
    assert choose_split(range(1, 6), train=(1, 2, 3)) == ((1, 2, 3), (4,), (5,))
    assert choose_split(range(1, 6), train=(1, 2, 3), test=(4, 5)) == ((1, 2, 3), (), (4, 5))


def test_few_folds_go_to_training_first():
    assert choose_split([7]) == ((7,), (), ())
    assert choose_split([7, 8]) == ((7,), (), (8,))
    assert choose_split([1], train=(1,)) == ((1,), (), ())


def test_a_fold_in_two_parts_is_refused():
    with pytest.raises(UsageError, match="fold 3 is both a train and a test fold"):
        choose_split(range(1, 6), train=(1, 3), test=(3, 5))


@given(st.sets(st.integers(0, 9), min_size=1), st.integers(0, 9))
def test_no_fold_is_ever_in_two_parts(present: set[int], test: int):
    split = choose_split(present, test=(test,))
    everything = [*split.train, *split.validation, *split.test]
    assert len(everything) == len(set(everything))


def test_the_store_says_how_numbers_are_written_and_the_model_how_they_are_normalised():
    matched, notes = match_inputs(preprocessing(), store(scale=0.5, nodata=-1), "bundle")
    assert (matched.inputs["s2"].scale, matched.inputs["s2"].nodata) == (0.5, -1)
    assert matched.inputs["s2"].mean == preprocessing().inputs["s2"].mean
    assert notes == []


def test_other_bands_are_refused_with_both_orders():
    with pytest.raises(WeightsError, match=r"bands B03 B02 .* trained on sentinel-2 bands B02 B03"):
        match_inputs(preprocessing(), store((BANDS[1], BANDS[0], *BANDS[2:])), "bundle")


def test_no_modality_in_common_is_refused():
    other = store()
    other.modalities = {"s1-asc": other.modalities["s2"]}
    with pytest.raises(WeightsError, match=r"takes s2, toy.zarr has s1-asc"):
        match_inputs(preprocessing(), other, "bundle")


def test_where_two_stores_gave_a_modality_other_bands_each_is_read_by_its_own():
    both = Preprocessing.together([preprocessing(), preprocessing(BANDS[:3], mean=7.0)])
    assert both.modalities == ["s2"]
    assert Preprocessing.from_dict(both.to_dict()) == both
    for bands in (BANDS, BANDS[:3]):
        matched, notes = match_inputs(both, store(bands), "bundle")
        assert list(matched.inputs) == ["s2"]
        assert (matched.inputs["s2"].bands, notes) == (bands, [])
    assert matched.inputs["s2"].mean == (7.0,) * 3
    with pytest.raises(WeightsError, match="give the bands in that order"):
        match_inputs(both, store(BANDS[:4]), "bundle")
    with pytest.raises(WeightsError, match="give the bands in that order"):
        match_inputs(both, store(BANDS[2::-1]), "bundle")


def test_a_missing_label_layer_is_refused_with_those_there_are():
    with pytest.raises(DataError, match=r"no label layer 'crop' \(it has: semantic, parcel\)"):
        label_layer(store(), "crop")


def test_a_label_layer_without_class_names_is_refused():
    with pytest.raises(DataError, match="'parcel' has no class names"):
        label_layer(store(), "parcel")


def test_the_map_is_taken_where_no_layer_is_named():
    assert label_layer(store())[0].name == "semantic"


def test_the_only_layer_with_classes_is_taken_and_named():
    other = store()
    other.labels["genera"] = LabelSpec("genera", "uint8", (3,), ("oak", "ash", "elm"))
    del other.labels["semantic"]
    spec, notes = label_layer(other)
    assert spec.name == "genera"
    assert notes == ["labels: genera, the only layer of toy.zarr with classes"]


def test_of_several_layers_one_has_to_be_chosen():
    other = store()
    del other.labels["semantic"]
    other.labels |= {name: LabelSpec(name, "uint8", (), ("a", "b")) for name in ("genus", "age")}
    with pytest.raises(UsageError, match="several label layers: genus, age; choose one with --label"):
        label_layer(other)


def test_the_label_of_a_token_is_the_most_frequent_class_that_is_not_void():
    labels = torch.tensor([[[1, 1, 9, 9], [1, 2, 9, 2]]])
    assert majority(labels, 2, 10, ignore=9).tolist() == [[[1, 2]]]


def test_ties_go_to_the_lowest_id_and_void_tokens_have_none():
    labels = torch.tensor([[[2, 2, 9, 9], [1, 1, 9, 9]]])
    assert majority(labels, 2, 10, ignore=9).tolist() == [[[1, -1]]]


def test_an_ignored_value_outside_the_classes_is_void_too():
    assert majority(torch.tensor([[[255, 255], [255, 3]]]), 2, 4, ignore=255).tolist() == [[[3]]]
    assert majority(torch.tensor([[[-1, -1], [-1, 0]]]), 2, 4, ignore=-1).tolist() == [[[0]]]


class Broken:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: int):
        raise DataError(f"sample {key} is cut")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_while_reading_stays_one_line_with_and_without_loader_processes(workers: int):
    with pytest.raises(DataError) as caught:
        list(batches(Broken(), Reading(batch_size=1, workers=workers, quiet=True)))
    assert str(caught.value) == "sample 0 is cut"


def test_sample_numbers_are_thinned_out_evenly():
    assert thin_out(np.arange(10, 20), 4).tolist() == [10, 13, 16, 19]
    assert thin_out(np.arange(3), 4).tolist() == [0, 1, 2]
    assert thin_out(np.arange(3), None).tolist() == [0, 1, 2]


def test_all_modalities_that_a_store_lacks_are_one_note():
    known = preprocessing().inputs["s2"]
    matched, notes = match_inputs(Preprocessing({"s1-asc": known, "s2": known, "spot": known}), store(), "bundle")
    assert list(matched.inputs) == ["s2"]
    assert notes == ["s1-asc, spot: not in toy.zarr, left out"]

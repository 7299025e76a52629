"""Transforms change all parts of a sample alike and lose nothing."""

from __future__ import annotations

import numpy as np
import torch

from eokit.data.sample import Sample, Series, Where
from eokit.data.transforms import FlipRotate


def make_sample(height=8, width=8, dates=5) -> Sample:
    """Pixels whose values say where they are, on two grids, and targets on the first."""
    place = torch.arange(height * width).reshape(height, width)
    series = {}
    for name, ratio in (("s2", 1), ("spot", 3)):
        fine = place.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
        values = fine.expand(dates, 2, -1, -1).float()
        series[name] = Series(
            values, torch.arange(dates, dtype=torch.int32), fine.expand(dates, -1, -1) % 3 > 0, "spot-6"
        )
    return Sample(series, Where("a", transform=(10.0, 0, 0, 0, -10, 0)), {"parcel": place, "class": torch.tensor(3)})


def draws(transform, sample, count=40):
    return [transform(sample, np.random.default_rng(seed)) for seed in range(count)]


def test_all_eight_symmetries_of_a_square_occur():
    assert len({tuple(one.targets["parcel"].flatten().tolist()) for one in draws(FlipRotate(), make_sample())}) == 8


def test_pixels_of_every_modality_stay_with_their_targets():
    for turned in draws(FlipRotate(), make_sample()):
        place = turned.targets["parcel"]
        torch.testing.assert_close(turned.series["s2"].values[0, 0], place.float())
        torch.testing.assert_close(turned.series["spot"].values[3, 1, 1::3, 1::3], place.float())
        assert torch.equal(turned.series["s2"].valid[0], place % 3 > 0)


def test_a_patch_that_is_not_square_keeps_its_shape():
    turned = draws(FlipRotate(), make_sample(height=4))
    assert {tuple(one.series["spot"].values.shape[-2:]) for one in turned} == {(12, 24)}
    assert len({tuple(one.targets["parcel"].flatten().tolist()) for one in turned}) == 4


def test_a_single_number_as_target_is_not_turned():
    assert all(one.targets["class"] == 3 for one in draws(FlipRotate(), make_sample()))


def test_a_turned_patch_has_no_north_up_grid():
    assert FlipRotate()(make_sample(), np.random.default_rng(0)).where.transform is None

"""The pictures of reports can be read."""

import pytest

pytest.importorskip("matplotlib")

from eokit.viz.style import new_figure
from eokit_bench.plot import plain_numbers


@pytest.mark.parametrize(("low", "high"), [(11, 14), (1, 2), (99, 104), (3, 29), (6, 6000)])
def test_every_range_has_several_numbers_along_its_axis(low, high):
    axes = new_figure(4, 3).add_subplot()
    axes.plot([1, 2], [low, high])
    axes.set_yscale("log")
    plain_numbers(axes)
    bottom, top = axes.get_ylim()
    assert sum(bottom <= tick <= top for tick in axes.get_yticks()) >= 3

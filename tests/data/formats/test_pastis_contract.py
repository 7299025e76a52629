"""PASTIS does what every format does; what is its own is in `test_pastis.py` and `test_pastis_damage.py`."""

from typing import ClassVar

from eokit.data.synthetic import write_copy
from tests.data.formats import trees
from tests.data.formats.contract import FormatContract, cut, first, pytest_generate_tests  # noqa: F401


def truncated_array(copy):
    cut(first(copy, "DATA_S2/*.npy"))


def no_spot_image(copy):
    first(copy, "DATA_SPOT/*/*.tif").unlink()


class TestPastisHD(FormatContract):
    name = "pastis"
    damages: ClassVar = {
        truncated_array: r"S2_10000\.npy: truncated",
        no_spot_image: r"no SPOT6_RVB_1M00_2019_10000\.tif",
    }

    @classmethod
    def make_copy(cls, path, seed=0):
        tree = write_copy("pastis", path, patches=cls.patches, size=16, seed=seed)
        trees.add_spot(tree, ids=sorted(int(one.stem[3:]) for one in tree.glob("DATA_S2/*.npy")), size=160)
        return tree

"""What every data set's reader does, whatever its layout; `test_<name>.py` inherits it and says how copies break.

A subclass gives `name`, `patches`, and `damages`: what is done to a copy -> what the one line of the error says. The
first damage is that of one patch.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from eokit.data.formats import get_format
from eokit.data.formats.base import Format
from eokit.data.store import Store
from eokit.data.synthetic import write_copy
from eokit.data.writer import WriteOptions, write_store
from eokit.errors import DataError, UsageError

Damage = Callable[[Path], None]


class FormatContract:
    """Tests of one format against a synthetic copy of its data set."""

    name: ClassVar[str]
    patches: ClassVar[int] = 4
    damages: ClassVar[dict[Damage, str]]

    @classmethod
    def make_copy(cls, path: Path, seed: int = 0) -> Path:
        """A whole synthetic copy at `path`."""
        return write_copy(cls.name, path, patches=cls.patches, seed=seed)

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, tmp_path_factory) -> Path:
        """A copy that no test changes."""
        return cls.make_copy(tmp_path_factory.mktemp(cls.name) / "copy")

    @pytest.fixture
    def copy(self, whole, tmp_path) -> Path:
        """A copy that a test may break."""
        return Path(shutil.copytree(whole, tmp_path / "copy"))

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, whole, tmp_path_factory) -> Store:
        """The whole copy as a store."""
        dest = tmp_path_factory.mktemp(cls.name) / "store.zarr"
        write_store(get_format(cls.name).open_source(whole), dest, WriteOptions(workers=1, quiet=True))
        return Store.open(dest)

    @property
    def format(self) -> Format:
        """The format under test."""
        return get_format(self.name)

    def test_a_whole_copy_has_no_problem(self, whole):
        assert self.format.check(whole).lines == []
        assert len(self.format.open_source(whole).entries) == self.patches

    def test_the_copy_is_found_in_its_folder_and_below_it(self, whole, tmp_path):
        assert self.format.find(whole) == whole
        assert self.format.find(whole.parent) == whole
        assert self.format.find(tmp_path) is None

    def test_the_store_holds_what_the_source_reads(self, whole, store):
        source = self.format.open_source(whole)
        assert store.ids == [entry.id for entry in source.entries]
        assert store.folds.tolist() == [entry.fold for entry in source.entries]
        assert tuple(store.modalities.values()) == source.spec.modalities
        assert tuple(store.labels.values()) == source.spec.labels
        for sample, entry in enumerate(source.entries):
            for name in store.modalities:
                np.testing.assert_array_equal(store.read(name, sample), source.read(entry, name))
                np.testing.assert_array_equal(store.days(name, sample), entry.days[name])
            for name, label in source.read_labels(entry).items():
                np.testing.assert_array_equal(store.read_label(name, sample), label)

    def test_modalities_of_a_sample_cover_the_same_ground(self, store):
        several = [one for one in store.modalities.values() if one.shape[1:] != (1, 1)]  # one pixel: MODIS, larger
        metres = {tuple(np.round(np.multiply(one.shape[1:], one.gsd), 3)) for one in several}
        assert len(metres) == 1

    def test_days_ascend(self, store):
        for name in store.modalities:
            assert all((np.diff(store.days(name, sample)) >= 0).all() for sample in range(len(store)))

    def test_statistics_of_every_band_exist_and_vary(self, store):
        for name, spec in store.modalities.items():
            facts = store.statistics["modalities"][name]["all"]
            assert facts["count"] > 0
            assert len(facts["mean"]) == len(facts["std"]) == len(spec.bands)
            assert min(facts["std"]) > 0, f"{name}: a constant band teaches nothing"

    def test_every_label_has_counts_of_its_classes(self, store):
        for name, spec in store.labels.items():
            if spec.classes is not None:
                assert store.class_counts(name).sum() > 0

    def test_made_up_data_are_called_synthetic(self, store):
        assert store.synthetic
        assert "synthetic" in store.attributes["title"].lower()
        assert self.format.INFO.licence not in store.attributes["licence"]

    def test_the_same_seed_gives_the_same_bytes_and_another_one_others(self, whole, tmp_path):
        again = self.make_copy(tmp_path / "again")
        other = self.make_copy(tmp_path / "other", seed=1)
        assert _content(again) == _content(whole)
        assert _content(other) != _content(whole)

    def test_a_source_can_be_sent_to_another_process(self, whole):
        source = self.format.open_source(whole)
        entry, name = source.entries[-1], source.spec.modalities[-1].name
        sent = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(sent.read(sent.entries[-1], name), source.read(entry, name))

    def test_one_modality_can_be_chosen(self, whole):
        for name in [one.name for one in self.format.open_source(whole).spec.modalities]:
            source = self.format.open_source(whole, modalities=[name])
            assert [one.name for one in source.spec.modalities] == [name]
            assert source.input_bytes(source.entries[0]) > 0

    def test_an_unknown_modality_is_a_usage_error(self, whole):
        with pytest.raises(UsageError, match=r"unknown modality 'x9'; .* has "):
            self.format.open_source(whole, modalities=["x9"])

    def test_a_limit_takes_patches_of_all_folds(self, whole):
        entries = self.format.open_source(whole, limit=3).entries
        assert len({entry.fold for entry in entries}) == 3
        with pytest.raises(UsageError, match="--limit is 0"):
            self.format.open_source(whole, limit=0)

    def test_a_damaged_copy_is_refused_in_one_line(self, copy, damage):
        damage(copy)
        with pytest.raises(DataError, match=self.damages[damage]) as caught:
            self.format.open_source(copy)
        assert len(caught.value.lines) == 1

    def test_check_says_what_prepare_would_say(self, copy, damage):
        damage(copy)
        with pytest.raises(DataError) as caught:
            self.format.open_source(copy)
        assert tuple(self.format.check(copy).lines) == caught.value.lines

    def test_a_broken_patch_can_be_skipped_and_is_noted(self, copy):
        next(iter(self.damages))(copy)
        source = self.format.open_source(copy, on_error="skip")
        assert 0 < len(source.entries) < self.patches
        assert any("is skipped" in note for note in source.notes)

    def test_a_copy_that_was_mended_is_whole_again(self, whole, copy):
        next(iter(self.damages))(copy)
        assert self.format.check(copy).lines
        shutil.rmtree(copy)
        shutil.copytree(whole, copy)
        assert self.format.check(copy).lines == []

    def test_a_folder_that_holds_nothing_of_it_is_refused(self, tmp_path):
        with pytest.raises(DataError):
            self.format.open_source(tmp_path)
        with pytest.raises(DataError, match="no such folder"):
            self.format.open_source(tmp_path / "nowhere")
        (tmp_path / "all.zip").write_bytes(b"PK")
        with pytest.raises(DataError, match="unpack"):
            self.format.open_source(tmp_path / "all.zip")

    def test_the_commands_know_it(self, whole, tmp_path):
        from eokit_cli.datasets import command as datasets
        from eokit_cli.inspect import command as inspect
        from eokit_cli.prepare import command as prepare

        dest = tmp_path / "s.zarr"
        for command, typed in (
            (prepare, (self.name, whole, dest, "--workers", 1)),
            (inspect, (dest, "--plot", tmp_path / "s.png")),
            (datasets, ("info", self.name)),
            (datasets, ("check", self.name, whole)),
        ):
            done = CliRunner().invoke(command, [str(one) for one in typed])
            assert (done.exit_code, done.exception) == (0, None), done.output
        assert (tmp_path / "s.png").stat().st_size > 1000


def pytest_generate_tests(metafunc: Any) -> None:
    """One test for each damage of the class. A test file of a contract imports this."""
    if "damage" in metafunc.fixturenames:
        metafunc.parametrize("damage", metafunc.cls.damages, ids=lambda damage: damage.__name__)


def cut(path: Path, size: int = 100) -> None:
    """Take the last `size` bytes off a file."""
    path.write_bytes(path.read_bytes()[:-size])


def first(folder: Path, pattern: str) -> Path:
    """The first file that fits."""
    return sorted(folder.glob(pattern))[0]


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

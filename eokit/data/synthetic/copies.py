"""A SYNTHETIC copy of a published data set on disk: written aside, marked as made up, then put in place.

Called by the synthetic writers of the data sets.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eokit.errors import ArgumentError, DataError
from eokit.files import writing

README = """SYNTHETIC data in the layout of {title}.

A random generator (eokit.data.synthetic, seed {seed}) drew everything here: land, plants, images and clouds.
No satellite and no camera saw this land. The classes are borrowed: each stands for covers of the synthetic land, which
have seasons and spectra of their own, so that there is something to learn. Scores on it say whether software works.
"""


@contextmanager
def new_copy(path: Path) -> Iterator[Path]:
    """A folder to write to, which gets the name `path` when everything is written; DataError where that is in use."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} exists already; choose another folder for the synthetic season, or remove it first")
    aside = path.with_name(path.name + ".partial")
    with writing(path):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        if path.is_dir():
            path.rmdir()
        aside.rename(path)


def mark_synthetic(folder: Path, title: str, seed: int) -> None:
    """eokit.json and a README that say what the copy is; `title`: of the data set whose layout it has."""
    told = {"title": f"Synthetic data in the layout of {title}", "synthetic": True}
    nobody = {"licence": "none: synthetic data", "citation": "none: synthetic data"}
    (folder / "eokit.json").write_text(json.dumps(told | nobody), encoding="utf-8")
    (folder / "README.txt").write_text(README.format(title=title, seed=seed), encoding="utf-8")


def check_patches(patches: int) -> None:
    """ArgumentError where so many patches cannot be."""
    if not 1 <= patches <= 9999:
        raise ArgumentError(f"patches={patches}: expected 1 to 9999")

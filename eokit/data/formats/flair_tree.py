"""The folders of FLAIR-2: which patches are there, where their files are, and whether every one fits.

    flair_aerial_train/<domain>/<area>/img/IMG_000883.tif         flair_2_aerial_test/...
    flair_labels_train/<domain>/<area>/msk/MSK_000883.tif         flair_2_labels_test/...
    flair_sen_train/<domain>/<area>/sen/..._{data.npy,masks.npy,products.txt}   flair_2_sen_test/...

The images of an area share one Sentinel-2 series, the super-patch. Called by `flair.py` before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eokit.data.formats.base import Findings
from eokit.data.formats.dates import parse_day, product_days
from eokit.data.formats.footprints import Grid, outline
from eokit.data.formats.geotiff import crop_grid, read_image_header
from eokit.data.formats.npy import read_header
from eokit.data.formats.tables import read_table
from eokit.errors import DataError


class Part(NamedTuple):
    """The folders of the images that train and validate, or of those that test."""

    aerial: str
    labels: str
    sentinel: str
    test: bool


PARTS = (
    Part("flair_aerial_train", "flair_labels_train", "flair_sen_train", False),
    Part("flair_2_aerial_test", "flair_2_labels_test", "flair_2_sen_test", True),
)
CENTROIDS = "flair-2_centroids_sp_to_patch.json"
METADATA = "flair_aerial_metadata.json"
SPLITS = "splits.json"
FOLDS = {"train": 1, "val": 2, "test": 3}

PUBLISHED_EDGE, EDGE, GSD = 512, 500, 0.2
"""Pixels along an edge of a published image, and of its inner part that is stored; metres a pixel."""
SERIES_EDGE, SERIES_GSD = 10, 10.0
"""Pixels of the Sentinel-2 series that are stored of a patch, as AnySat takes them; metres a pixel."""


class Around(NamedTuple):
    """The 10 x 10 px of a super-patch around an image. path: of its data. corner: their first row and column.

    days: (T,) since 1970-01-01 of the whole series.
    """

    path: Path
    corner: tuple[int, int]
    days: np.ndarray


@dataclass(frozen=True)
class Patch:
    """One patch whose headers were read. image, label: paths. day: that of the image."""

    id: str
    fold: int
    domain: str
    image: Path
    label: Path
    series: Around
    day: int
    grid: Grid


class Listed(NamedTuple):
    """A patch before its headers are read."""

    id: str
    fold: int
    domain: str
    image: Path
    label: Path
    sentinel: Path


@dataclass(frozen=True)
class Tables:
    """What the copy's JSON files say: place in the super-patch and day of every image."""

    centroids: Mapping[str, Any]
    metadata: Mapping[str, Any]


def list_patches(root: Path, findings: Findings) -> list[Listed]:
    """Every image of the copy whose part has labels, with its fold."""
    _series.cache_clear()  # the copy may have been mended since it was last looked at
    folds = _read_splits(root / SPLITS, findings)
    listed: list[Listed] = []
    for part in PARTS:
        images = sorted((root / part.aerial).glob("*/*/img/IMG_*.tif"))
        if images and not (root / part.labels).is_dir():
            findings.note(f"no folder {part.labels}: its {len(images)} patches are left out")
            continue
        for image in images:
            domain, area = image.parts[-4], image.parts[-3]
            label = root / part.labels / domain / area / "msk" / image.name.replace("IMG", "MSK")
            fold = FOLDS["test"] if part.test else folds.get(domain, FOLDS["train"])
            listed.append(Listed(image.stem, fold, domain, image, label, root / part.sentinel / domain / area))
    strange = sorted({one.domain for one in listed if folds and one.fold == 1 and one.domain not in folds})
    if strange:
        findings.note(f"{SPLITS} does not list {len(strange)} domains (first: {strange[0]}): they train")
    if not listed:
        raise DataError(
            f"{root / PARTS[0].aerial}: no <domain>/<area>/img/IMG_*.tif with labels there; unpack the zips"
        )
    return listed


def read_tables(root: Path, series: bool, findings: Findings) -> Tables:
    """The centroids, which a `series` needs, and the metadata, without which images have only a year."""
    centroids = read_table(root / CENTROIDS, '{"IMG_000001.tif": [row, column], ...}') if series else {}
    if not (root / METADATA).is_file():
        findings.note(f"no {METADATA}: aerial images get 1 July of the year of their domain")
        return Tables(centroids, {})
    return Tables(centroids, read_table(root / METADATA, '{"IMG_000001": {...}, ...}'))


def read_patch(listed: Listed, tables: Tables, series: bool, findings: Findings) -> Patch | None:
    """The patch as far as headers tell, with its `series` or without; None where something is wrong.

    What is wrong goes to `findings`.
    """
    what = "series"
    around = Around(listed.sentinel, (0, 0), np.zeros(0, np.int32))
    try:
        if series:
            around = _around(listed, tables)
        what = "image"
        grid, day = _grid(listed.image), _day(listed, tables)
        what = "label"
        header = read_image_header(listed.label, ("uint8",))
        if (header.bands, header.size) != (1, (PUBLISHED_EDGE,) * 2):
            found = f"{header.bands} bands of {header.size[0]} x {header.size[1]} px"
            raise DataError(f"{listed.label}: {found}, expected 1 band of {PUBLISHED_EDGE} x {PUBLISHED_EDGE} px")
        return Patch(listed.id, listed.fold, listed.domain, listed.image, listed.label, around, day, grid)
    except DataError as error:
        findings.damage(what, error, listed.id)
        return None


def masks_of(series: Path) -> Path:
    """The probabilities of snow and cloud beside the series."""
    return series.with_name(series.name.removesuffix("data.npy") + "masks.npy")


@lru_cache(maxsize=256)
def _series(folder: Path) -> tuple[np.ndarray, tuple[int, int], Path]:
    """Days (T,), size (H, W) and path of the super-patch of an area; DataError where its three files do not fit."""
    found = sorted(folder.rglob("*data.npy"))
    if len(found) != 1:
        raise DataError(f"{folder}: {len(found)} files *data.npy, expected one super-patch an area; copy it again")
    path = found[0]
    products = path.with_name(path.name.removesuffix("data.npy") + "products.txt")
    shape, masks = read_header(path).shape, read_header(masks_of(path)).shape
    if len(shape) != 4 or shape[1] != 10 or not shape[0]:
        raise DataError(f"{path}: shape {shape}, expected (T, 10, H, W)")
    if masks != (shape[0], 2, *shape[2:]):
        raise DataError(f"{masks_of(path)}: shape {masks}, expected {(shape[0], 2, *shape[2:])}: snow and cloud")
    try:
        lines = [line for line in products.read_text(encoding="utf-8").splitlines() if line.strip()]
        days = product_days(f"_{line}" for line in lines)
    except (OSError, ValueError) as error:
        raise DataError(f"{products}: {error}; copy or download it again") from None
    if len(days) != shape[0]:
        raise DataError(f"{products}: {len(days)} products for the {shape[0]} dates of {path.name}")
    return days, (shape[2], shape[3]), path


def _around(listed: Listed, tables: Tables) -> Around:
    """The part of its super-patch that belongs to an image; DataError where it has none."""
    days, size, path = _series(listed.sentinel)
    centre = tables.centroids.get(listed.image.name)
    if not isinstance(centre, list) or len(centre) != 2 or not all(isinstance(one, int) for one in centre):
        raise DataError(f"{listed.image}: {CENTROIDS} has {centre!r} for it, expected [row, column]")
    row, column = (one - SERIES_EDGE // 2 for one in centre)
    if not (0 <= row <= size[0] - SERIES_EDGE and 0 <= column <= size[1] - SERIES_EDGE):
        raise DataError(f"{listed.image}: its centre {centre} is less than 50 m within its super-patch of {size} px")
    return Around(path, (row, column), days)


def _grid(path: Path) -> Grid:
    """Where the inner 500 px of an image lie; DataError where the image is not as published."""
    header = read_image_header(path, ("uint8",))
    if (header.bands, header.size) != (5, (PUBLISHED_EDGE,) * 2):
        found = f"{header.bands} bands of {header.size[0]} x {header.size[1]} px"
        raise DataError(f"{path}: {found}, expected 5 bands (R G B NIR nDSM) of {PUBLISHED_EDGE} x {PUBLISHED_EDGE} px")
    if header.transform is None:
        return Grid()
    return outline(header.crs, crop_grid(header.transform, (PUBLISHED_EDGE - EDGE) // 2), (EDGE, EDGE))


def _day(listed: Listed, tables: Tables) -> int:
    """The day of an image: that of the metadata, else 1 July of the year in the name of its domain."""
    if not tables.metadata:
        year = re.search(r"_(\d{4})$", listed.domain)
        if year is None:
            raise DataError(f"{listed.image}: its domain {listed.domain} has no year, expected such as D004_2021")
        return parse_day(f"{year[1]}0701")
    facts = tables.metadata.get(listed.id)
    text = facts.get("date") if isinstance(facts, dict) else None
    try:
        return parse_day(str(text).replace("-", ""))
    except ValueError:
        raise DataError(f"{listed.image}: {METADATA} has the date {text!r}, expected YYYY-MM-DD") from None


def _read_splits(path: Path, findings: Findings) -> dict[str, int]:
    """Domain -> fold, of the lists that AnySat ships; none of FLAIR's own: its baseline draws 20 % of the domains."""
    if not path.is_file():
        findings.note(f"no {SPLITS}: no domain validates, all that do not test are fold 1")
        return {}
    form = '{"train": ["D004_2021", ...], "val": [...], "test": [...]}'
    table = read_table(path, form)
    if not all(isinstance(table.get(name), list) for name in FOLDS):
        raise DataError(f"{path}: expected {form}")
    folds: dict[str, int] = {}
    for name, fold in FOLDS.items():
        twice = [domain for domain in table[name] if folds.setdefault(domain, fold) != fold]
        if twice:
            raise DataError(f"{path}: {twice[0]} is in {name} and in another list, expected in one of them")
    return folds

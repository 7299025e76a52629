"""The folders of PASTIS, PASTIS-R and PASTIS-HD on disk: what is there, and whether every file fits.

Called by `pastis.py` before anything is written: only directory listings and file headers are read, never pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from eokit.data.formats.base import Findings
from eokit.data.formats.geotiff import open_image
from eokit.data.formats.npy import Header, read_header
from eokit.data.formats.pastis_metadata import FILE, Patch
from eokit.data.formats.values import DB_STEP
from eokit.data.sensors import get_sensor
from eokit.errors import DataError, UsageError

GSD = 10.0
"""Metres a pixel of every Sentinel array and label of PASTIS."""
SPOT = "spot"
SPOT_FOLDER = "DATA_SPOT"


@dataclass(frozen=True)
class ArrayFiles:
    """One npy file a patch in one folder."""

    folder: str
    prefix: str

    def file(self, patch: str) -> str:
        """Path of a patch's file below the tree."""
        return f"{self.folder}/{self.prefix}_{patch}.npy"


@dataclass(frozen=True)
class SeriesFiles(ArrayFiles):
    """The (T, C, H, W) arrays of one modality. physical value = stored value x `scale`.

    dates: the property of metadata.geojson that holds the days. `dtypes`: those that hold such values without loss.
    """

    dates: str
    sensor: str
    bands: tuple[str, ...]
    scale: float
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class LabelFiles(ArrayFiles):
    """One label layer of integers, stored as `dtype`: (H, W), or (channel, H, W) of which channel 0 is the label."""

    dtype: str


_S2_BANDS = get_sensor("sentinel-2").band_sets[10]
_S1_BANDS = get_sensor("sentinel-1").band_sets[3]
_S2_DTYPES = ("int16", "uint16", "int32", "int64", "float32", "float64")
_S1_DTYPES = ("float16", "float32", "float64")

SERIES = {
    "s2": SeriesFiles("DATA_S2", "S2", "dates-S2", "sentinel-2", _S2_BANDS, 1.0, _S2_DTYPES),
    "s1-asc": SeriesFiles("DATA_S1A", "S1A", "dates-S1A", "sentinel-1", _S1_BANDS, DB_STEP, _S1_DTYPES),
    "s1-des": SeriesFiles("DATA_S1D", "S1D", "dates-S1D", "sentinel-1", _S1_BANDS, DB_STEP, _S1_DTYPES),
}
LABELS = {
    "semantic": LabelFiles("ANNOTATIONS", "TARGET", "uint8"),
    "parcel": LabelFiles("ANNOTATIONS", "ParcelIDs", "int32"),
    "instance": LabelFiles("INSTANCE_ANNOTATIONS", "INSTANCES", "int32"),
}


@dataclass(frozen=True)
class Tree:
    """What a copy holds. `spot`: patch id -> path below root. `files`: names in each folder that is there."""

    root: Path
    modalities: tuple[str, ...]
    labels: tuple[str, ...]
    spot: dict[str, str]
    files: dict[str, frozenset[str]]


def survey(root: Path, wanted: Sequence[str] | None) -> Tree:
    """List the folders of the tree at `root`; `wanted` modalities must be there, None takes all that are."""
    arrays: list[ArrayFiles] = [*SERIES.values(), *LABELS.values()]
    folders = {layer.folder for layer in arrays}
    files = {folder: frozenset(_names(root / folder)) for folder in folders if (root / folder).is_dir()}
    spot = {path.stem.rsplit("_", 1)[-1]: path.relative_to(root).as_posix() for path in _spot_files(root)}
    found = [name for name, layer in SERIES.items() if layer.folder in files] + [SPOT] * bool(spot)
    for name in wanted or ():
        if name not in (*SERIES, SPOT):
            raise UsageError(f"unknown modality {name!r}; PASTIS has {', '.join((*SERIES, SPOT))}")
        if name not in found:
            folder = SPOT_FOLDER if name == SPOT else SERIES[name].folder
            raise DataError(
                f"{root / folder}: no such folder, needed for {name}; there are {', '.join(found) or 'none'}"
            )
    chosen = tuple(name for name in found if wanted is None or name in wanted)
    labels = tuple(name for name, layer in LABELS.items() if _has(files.get(layer.folder, frozenset()), layer.prefix))
    return Tree(root, chosen, labels, spot, files)


def check_folders(tree: Tree, wanted: Sequence[str] | None, dated: frozenset[str], findings: Findings) -> None:
    """What every copy must have, and what this one lacks and goes without."""
    if wanted is None and "s2" not in tree.modalities:
        findings.problem("no S2", f"{tree.root / 'DATA_S2'}: no such folder; copy it, or choose with --modalities")
    if "semantic" not in tree.labels:
        findings.problem("no target", f"{tree.root / 'ANNOTATIONS'}: no TARGET_<id>.npy there; copy the folder")
    for name, layer in SERIES.items():
        if wanted is None and name in dated and name not in tree.modalities:
            findings.note(f"{FILE} has {layer.dates}, but there is no {layer.folder}: {name} is left out")
    for name in ("parcel", "instance"):
        if name not in tree.labels:
            findings.note(f"no {LABELS[name].file('<id>')}: the store has no {name} labels")


class Sizes(NamedTuple):
    """(H, W) that all patches share: of the 10 m arrays, and of SPOT images where there are some."""

    pixels: tuple[int, int]
    spot: tuple[int, int] | None


class _Found(NamedTuple):
    patch: str
    file: Path
    size: tuple[int, int]


def check_files(tree: Tree, patches: Sequence[Patch], findings: Findings) -> Sizes:
    """Check the header of every file of `patches`; what is wrong goes to `findings`."""
    pixels: list[_Found | None] = []
    images: list[_Found | None] = []
    for patch in patches:
        for name in tree.modalities:
            if name == SPOT:
                images.append(_check_image(tree, patch, findings))
            else:
                pixels.append(_check_series(tree, patch, name, findings))
        pixels += [_check_label(tree, patch, name, findings) for name in tree.labels]
    sizes = Sizes(_common(pixels, findings) or (0, 0), _common(images, findings))
    if sizes.spot and any(fine % coarse for fine, coarse in zip(sizes.spot, sizes.pixels, strict=True) if coarse):
        findings.problem(
            "spot size",
            f"{tree.root / SPOT_FOLDER}: images of {_text(sizes.spot)} px over patches of {_text(sizes.pixels)} px,"
            " expected a whole multiple (1280 over 128 as published); choose others with --modalities",
        )
    return sizes


def _check_series(tree: Tree, patch: Patch, name: str, findings: Findings) -> _Found | None:
    layer = SERIES[name]
    header = _header(tree, layer, patch, findings)
    if header is None:
        return None
    path, shape = tree.root / layer.file(patch.id), header.shape
    if len(shape) != 4 or shape[1] != len(layer.bands):
        expected = f"(T, {len(layer.bands)}, H, W) with bands {' '.join(layer.bands)}"
        findings.problem(f"{name} shape", f"{path}: shape {shape}, expected {expected}", patch.id)
        return None
    if header.dtype.name not in layer.dtypes:
        message = f"{path}: dtype {header.dtype.name}, expected {layer.dtypes[0]} (or {', '.join(layer.dtypes[1:])})"
        findings.problem(f"{name} dtype", message, patch.id)
    if shape[0] == 0:
        findings.problem(f"{name} empty", f"{path}: holds no date; remove the patch from {FILE}", patch.id)
    elif name in patch.days and len(patch.days[name]) != shape[0]:
        days = patch.days[name]
        message = f"{path}: {shape[0]} dates, but {layer.dates} of patch {patch.id} in {FILE} has {len(days)};"
        findings.problem(f"{name} dates", f"{message} take both from the same release", patch.id)
    return _Found(patch.id, path, (shape[2], shape[3]))


def _check_label(tree: Tree, patch: Patch, name: str, findings: Findings) -> _Found | None:
    layer = LABELS[name]
    header = _header(tree, layer, patch, findings)
    if header is None:
        return None
    path = tree.root / layer.file(patch.id)
    if len(header.shape) not in (2, 3) or header.shape[:-2] == (0,):
        message = f"{path}: shape {header.shape}, expected (H, W) or (channel, H, W)"
        findings.problem(f"{name} shape", message, patch.id)
        return None
    if header.dtype.kind not in "iuf":
        findings.problem(f"{name} dtype", f"{path}: dtype {header.dtype.name}, expected {layer.dtype}", patch.id)
    return _Found(patch.id, path, (header.shape[-2], header.shape[-1]))


def _check_image(tree: Tree, patch: Patch, findings: Findings) -> _Found | None:
    if patch.id not in tree.spot:
        message = f"{tree.root / SPOT_FOLDER}: no SPOT6_RVB_1M00_2019_{patch.id}.tif, but {FILE} lists patch {patch.id}"
        findings.problem("spot missing", f"{message}; copy or download it again", patch.id)
        return None
    path = tree.root / tree.spot[patch.id]
    try:
        with open_image(path) as image:
            count, dtype, size = image.count, image.dtypes[0], (image.height, image.width)
    except DataError as error:
        findings.problem("spot unreadable", str(error), patch.id)
        return None
    if (count, dtype) != (3, "uint8"):
        message = f"{path}: {count} bands of {dtype}, expected 3 bands (R G B) of uint8"
        findings.problem("spot bands", message, patch.id)
    return _Found(patch.id, path, size)


def _header(tree: Tree, layer: ArrayFiles, patch: Patch, findings: Findings) -> Header | None:
    file = layer.file(patch.id)
    path = tree.root / file
    if path.name not in tree.files.get(layer.folder, frozenset()):
        message = f"{path}: no such file, but {FILE} lists patch {patch.id}; copy or download it again"
        findings.problem(f"{layer.prefix} missing", message, patch.id)
        return None
    try:
        return read_header(path)
    except DataError as error:
        findings.problem(f"{layer.prefix} unreadable", str(error), patch.id)
        return None


def _common(found: Sequence[_Found | None], findings: Findings) -> tuple[int, int] | None:
    """The size that most files have; every file with another one is a problem of its patch."""
    known = [one for one in found if one is not None]
    if not known:
        return None
    size = Counter(one.size for one in known).most_common(1)[0][0]
    for one in known:
        if one.size != size:
            message = f"{one.file}: {_text(one.size)} px, the other patches have {_text(size)} px;"
            findings.problem("size", f"{message} a store holds one size, prepare them apart", one.patch)
    return size


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _has(names: frozenset[str], prefix: str) -> bool:
    return any(name.startswith(f"{prefix}_") for name in names)


def _spot_files(root: Path) -> list[Path]:
    return sorted((root / SPOT_FOLDER).rglob("*.tif"))

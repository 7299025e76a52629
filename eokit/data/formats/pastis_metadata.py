"""The metadata.geojson of PASTIS, PASTIS-R and PASTIS-HD: patches, folds, tiles, dates, footprints.

Called by `pastis.py`. Plain JSON, no GIS library: a feature per patch with the properties ID_PATCH, Fold, TILE,
N_Parcel and `dates-<sensor>`, which is a dict {"0": 20180917, ...} or that dict as a string. Trees that others made in
this layout may say at the top level of the file what they are: `title`, `licence`, `citation`, `synthetic`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.formats.base import Findings
from eokit.data.formats.dates import parse_day
from eokit.errors import DataError

FILE = "metadata.geojson"
PUBLISHED_CRS = "EPSG:2154"
TOLD = ("title", "licence", "citation")
"""Foreign members of the file that go into the store's attributes."""
_EXAMPLE = 'expected {"0": 20180917, "1": 20180927, ...}, one YYYYMMDD per date'


@dataclass(frozen=True)
class Patch:
    """One feature. `days`: by modality, (T,) int32 days since 1970-01-01 in the order of the array's first axis."""

    id: str
    fold: int
    days: dict[str, np.ndarray]
    tile: str | None
    parcels: int | None
    geometry: dict | None


@dataclass(frozen=True)
class Metadata:
    """All patches in the order of the file. `crs`: of the footprints. `dated`: modalities with dates in any patch.

    told: what the file says of itself, of `TOLD`.
    """

    patches: tuple[Patch, ...]
    crs: str
    synthetic: bool
    dated: frozenset[str]
    told: Mapping[str, str] = field(default_factory=dict)


def read_metadata(path: Path, dates: Mapping[str, str], findings: Findings) -> Metadata:
    """The patches of a metadata.geojson; `dates` is the property that holds the dates of each modality wanted.

    A file that cannot be read at all is a DataError; what is wrong with single patches goes to `findings`.
    """
    collection = _collection(path)
    patches: dict[str, Patch] = {}
    first_seen: dict[str, int] = {}
    for number, feature in enumerate(collection["features"]):
        patch = _patch(path, number, feature, dates, findings)
        if patch is None:
            continue
        if patch.id in patches:
            where = f"features {first_seen[patch.id]} and {number}"
            message = f"{path}: ID_PATCH {patch.id} is in {where}, expected once; remove one of them"
            findings.problem("duplicate id", message, patch.id)
            continue
        patches[patch.id], first_seen[patch.id] = patch, number
    found = {key for feature in collection["features"] for key in _properties(feature) if key.startswith("dates-")}
    dated = frozenset(modality for modality, key in dates.items() if key in found)
    told = {key: text for key in TOLD if isinstance(text := collection.get(key), str) and text}
    crs = _crs(path, collection, findings)
    return Metadata(tuple(patches.values()), crs, bool(collection.get("synthetic")), dated, told)


def parse_dates(value: Any) -> np.ndarray:
    """(T,) int32 days since 1970-01-01 of a date dict or its string, by ascending integer key; else a ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value.replace("'", '"'))
        except json.JSONDecodeError:
            raise ValueError(f"{_short(value)} is no dict of dates") from None
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{_short(value)} is no dict of dates")
    try:
        ordered = sorted(value.items(), key=lambda item: int(item[0]))
    except ValueError:
        raise ValueError(f"its keys {_short(list(value))} are not all whole numbers") from None
    return np.array([parse_day(_whole(text)) for _, text in ordered], dtype=np.int32)


def _collection(path: Path) -> dict:
    try:
        collection = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; a PASTIS tree holds {FILE}, DATA_S2 and ANNOTATIONS (give the folder that does)"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); copy or download it again") from None
    features = collection.get("features") if isinstance(collection, dict) else None
    if not isinstance(features, list) or not features:
        raise DataError(f"{path}: holds no features, expected a GeoJSON FeatureCollection with one per patch")
    return collection


def _properties(feature: Any) -> dict:
    properties = feature.get("properties") if isinstance(feature, dict) else None
    return properties if isinstance(properties, dict) else {}


def _patch(path: Path, number: int, feature: Any, dates: Mapping[str, str], findings: Findings) -> Patch | None:
    properties = _properties(feature)
    known = ", ".join(sorted(properties)) or "no properties"
    identity = properties.get("ID_PATCH", feature.get("id") if isinstance(feature, dict) else None)
    if identity is None:
        findings.problem("no id", f"{path}: feature {number} has no ID_PATCH (it has {known}); give it one")
        return None
    id = _whole(identity)
    fold = _whole(properties.get("Fold"))
    if not _is_count(fold):
        message = f"{path}: patch {id}: Fold is {properties.get('Fold')!r}, expected a whole number such as 1 to 5"
        findings.problem("fold", message, id)
    days = {}
    for modality, key in dates.items():
        if key not in properties or properties[key] is None:
            findings.problem(key, f"{path}: patch {id} has no {key} (it has {known}), {_EXAMPLE}", id)
            continue
        try:
            days[modality] = parse_dates(properties[key])
        except ValueError as error:
            findings.problem(f"{key} unreadable", f"{path}: patch {id}: {key}: {error}, {_EXAMPLE}", id)
    parcels, tile = _whole(properties.get("N_Parcel")), properties.get("TILE")
    if not isinstance(tile, str | None):
        findings.note(f"{FILE}: TILE {_short(tile)} is no MGRS tile such as t31tfm: the UTM zone is the centre's own")
        tile = None
    return Patch(
        id=id,
        fold=int(fold) if _is_count(fold) else 0,
        days=days,
        tile=tile,
        parcels=int(parcels) if _is_count(parcels) else None,
        geometry=feature.get("geometry"),
    )


def _whole(value: Any) -> str:
    """10000, "10000" and 10000.0 (a GIS tool's round trip) are the same id."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _is_count(text: str) -> bool:
    """Whether a text is a whole number that an int32 of the index holds."""
    return text.isdecimal() and len(text) < 10


def _crs(path: Path, collection: dict, findings: Findings) -> str:
    """The file's reference system; GeoJSON without one is lon/lat unless its numbers cannot be degrees."""
    named = collection.get("crs")
    name = _properties(named).get("name")
    if isinstance(name, str) and name:
        return name
    if named is not None:
        expected = 'expected {"type": "name", "properties": {"name": "EPSG:2154"}} or none at all'
        findings.problem("crs", f"{path}: crs {_short(named)} names no reference system, {expected}")
    first = collection["features"][0]
    corner = first.get("geometry") if isinstance(first, dict) else None
    while isinstance(corner, (dict, list)) and corner:
        corner = corner.get("coordinates") if isinstance(corner, dict) else corner[0]
    return PUBLISHED_CRS if isinstance(corner, (int, float)) and abs(corner) > 180 else "EPSG:4326"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

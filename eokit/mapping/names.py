"""Dates and bands from what people write into file names, tags and band descriptions of GeoTIFFs.

Called by `eokit.mapping.folder`. Everything here works on text; nothing is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from pathlib import PurePath

from eokit.errors import DataError

EPOCH = date(1970, 1, 1)
FIRST_YEAR, LAST_YEAR = 1972, 2099
"""Landsat-1 flew in 1972; numbers outside this range are not years of satellite images."""

ACQUISITION_TAGS = ("ACQUISITION_DATE", "ACQUISITIONDATE", "ACQUISITIONDATETIME", "SENSING_TIME", "DATETIME", "DATE")
"""Tags that hold the day of acquisition, most telling first; TIFFTAG_DATETIME comes last (often the day of writing)."""

_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.:]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?:\d{6})?(?!\d)")
_DAY_OF_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)([0-3]\d\d)(?!\d)")
_PRODUCT = re.compile(r"^(S2[A-D]_MSI|S1[A-D]_(IW|EW|SM|WV)_|L[COTEM]0[4-9]_L\d|T\d\d[A-Z]{3}_\d{8}T\d{6})", re.I)
"""Products whose names put the acquisition first and the processing (or the end) after it."""


def days_since_epoch(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - EPOCH).days


def date_of(path: str, tags: Mapping[str, str] | None = None) -> date | None:
    """The acquisition date that a file's name, else its tags, tell; None where neither does.

    Names: 20200113, 2020-01-13, 2020_01_13 (also followed by a time), names of Sentinel-1, Sentinel-2 and Landsat
    products, and 2020013 (day of year) where nothing else looks like a date. Two different dates that no known product
    name explains are settled by the tags, else they are a DataError.
    """
    stem = PurePath(path).stem
    found = _dates_in(stem)
    if found and (len(set(found)) == 1 or _PRODUCT.match(stem)):
        return found[0]
    tagged = _tagged_date(tags or {})
    if tagged is None and found:
        days = ", ".join(str(day) for day in dict.fromkeys(found))
        raise DataError(f"{path}: its name holds several dates ({days}); keep the day of acquisition only")
    return tagged


def _dates_in(text: str) -> list[date]:
    """Every calendar date in `text`, in order; a single YYYYDDD counts only where there is no other."""
    found = [_calendar(int(year), int(month), int(day)) for year, _, month, day in _DAY.findall(text)]
    if not any(found):
        found = [_day_of_year(int(year), int(day)) for year, day in _DAY_OF_YEAR.findall(text)]
        found = found if sum(day is not None for day in found) == 1 else []
    return [day for day in found if day is not None]


def _calendar(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day) if FIRST_YEAR <= year <= LAST_YEAR else None
    except ValueError:
        return None


def _day_of_year(year: int, day: int) -> date | None:
    if not (FIRST_YEAR <= year <= LAST_YEAR and 1 <= day <= 366):
        return None
    when = date(year, 1, 1) + timedelta(days=day - 1)
    return when if when.year == year else None


def _tagged_date(tags: Mapping[str, str]) -> date | None:
    upper = {key.upper(): value for key, value in tags.items()}
    for tag in (*ACQUISITION_TAGS, "TIFFTAG_DATETIME"):
        if tag not in upper:
            continue
        found = _dates_in(upper[tag])
        if found:
            return found[0]
        try:
            return datetime.fromisoformat(upper[tag].strip()).date()
        except ValueError:
            continue
    return None


def band_of(text: str | None, bands: tuple[str, ...]) -> str | None:
    """The one of a sensor's `bands` that `text` (a description such as "B8A", "b2" or "B02 (blue)") names, or None."""
    names = {_canonical(band): band for band in bands}
    found = [names[word] for word in map(_canonical, _words(text or "")) if word in names]
    return found[0] if len(set(found)) == 1 else None


def without_band(stem: str, band: str) -> str:
    """`stem` with the word that names `band` left out, so that the files of one image are seen to belong together."""
    return " ".join(word for word in _words(stem) if _canonical(word) != _canonical(band))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^0-9A-Za-z-]+|-(?=[Bb]\d)", text) if word]


def _canonical(band: str) -> str:
    """B2, b02 and B002 are one band; VV-VH stays itself."""
    match = re.fullmatch(r"B0*(\d+)(A?)", band.upper())
    return f"B{match[1]}{match[2]}" if match else band.upper()

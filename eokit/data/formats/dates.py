"""Dates as published data sets write them, as days since 1970-01-01, in order.

Called by the formats that read dates from product names, lists or tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from functools import cache

import numpy as np

_EPOCH = date(1970, 1, 1).toordinal()


@cache
def parse_day(digits: str) -> int:
    """Days since 1970-01-01 of YYYYMMDD, else a ValueError; cached, because neighbours share their dates."""
    try:
        if len(digits) != 8:
            raise ValueError
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal() - _EPOCH
    except ValueError:
        raise ValueError(f"{_short(digits)} is no date") from None


def product_days(names: Iterable[str]) -> np.ndarray:
    """(T,) int32 days on which Sentinel products were taken: the first YYYYMMDDT... in each name; else a ValueError."""
    days = []
    for name in names:
        found = re.search(r"_(\d{8})T\d{6}", name)
        if found is None:
            raise ValueError(f"{_short(name)} is no Sentinel product name with a date such as _20200102T102421")
        days.append(parse_day(found[1]))
    return np.array(days, dtype=np.int32)


def in_order(days: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The days ascending, and the stable order that makes them so; None where they are already."""
    if not np.any(np.diff(days) < 0):
        return days, None
    order = np.argsort(days, kind="stable")
    return days[order], order


def mid_summer(days: np.ndarray) -> int:
    """1 July of the year in which most of `days` lie: the day of an image of which only the year is known."""
    years = np.asarray(days, "datetime64[D]").astype("datetime64[Y]")
    found, counts = np.unique(years, return_counts=True)
    return int((found[np.argmax(counts)].astype("datetime64[M]") + 6).astype("datetime64[D]").astype(int))


def _short(value: str) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

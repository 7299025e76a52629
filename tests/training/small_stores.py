"""Stores and settings small enough to pretrain on in a second."""

from __future__ import annotations

import numpy as np

from tests.data.stores import MemorySource, make_source, make_store

COUNTS = (5, 6, 4, 7, 5, 6)
SMALL = {
    "encoder": {"width": 32, "depth": 2, "heads": 2},
    "dates": 4,
    "crop": 16,
    "loop": {"steps": 4, "batch_size": 4, "workers": 0, "log_every": 1, "save_every": 2, "device": "cpu"},
}
"""Settings of `eokit.training.pretrain` for the smallest sensible run."""


class Fields(MemorySource):
    """The toy source with square fields of 8 pixels for parcels, each as large as four patches of the tiny preset."""

    def read_labels(self, entry):
        rows, columns = np.indices((48, 48)) // 8
        return super().read_labels(entry) | {"parcel": (1 + rows * 6 + columns).astype(np.int32)}


def store_with_fields(path, counts=COUNTS):
    source = make_source(counts)
    return make_store(path, Fields(source.spec, source.entries))


def store_without_parcels(path, counts=COUNTS):
    source = make_source(counts)
    labels = tuple(one for one in source.spec.labels if one.name != "parcel")
    source.spec = type(source.spec)(**vars(source.spec) | {"labels": labels})
    return make_store(path, source)

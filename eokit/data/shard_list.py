"""The list of a store's shards, shards.json: path -> bytes of every file that holds pixels or labels.

A shard of nothing but fill values has no file, as Zarr wants it. The list tells it from a file that was lost, and a
whole file from one that was cut off. Written by `eokit.data.finish`, asked by the reader and by `eokit inspect`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from eokit.errors import DataError

FILE = "shards.json"
CURE = "prepare the store again with --overwrite, or copy the file anew"
ATTRIBUTE = "shard_list"
"""The root attribute that says that there is a list; stores that older versions made have neither."""


class ShardList:
    """The shards of the store at `root`; the file is read when it is first asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.file = root, root / FILE

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Path below the root -> bytes."""
        try:
            found = json.loads(self.file.read_bytes())
            return {str(path): int(size) for path, size in found.items()}
        except (OSError, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{self.file}: cannot be read ({error}); {CURE}") from None

    def has(self, file: Path) -> bool:
        """Whether this file was written."""
        return file.relative_to(self.root).as_posix() in self.sizes

    def damage(self) -> Iterator[str]:
        """A line for each file that is missing or has another size than it was written with; reads no pixel."""
        for path, size in self.sizes.items():
            file = self.root / path
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found:,} bytes, expected {size:,}"
                yield f"{file} {what}; {CURE}"


def list_bytes(sizes: Mapping[str, int]) -> bytes:
    """The file's bytes; the same shards give the same bytes."""
    return json.dumps(dict(sorted(sizes.items())), indent=0).encode()

"""Maps of features as a folder of Cloud-Optimized GeoTIFFs, one a sample, a band a channel, and `features.json`.

features.json says what all of them are, and which file is which sample. int8 bands carry their step as GDAL's scale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from eokit.errors import TargetError
from eokit.files import writing
from eokit.mapping.embedding.layout import Layout, Place
from eokit.mapping.scene import SYNTHETIC_TAG

FACTS_FILE = "features.json"
LARGEST_BLOCK = 512
"""Pixels along a block of a GeoTIFF; maps of features are smaller, and a block is not larger than its map needs."""


class CogFolder:
    """GeoTIFFs, each written aside and renamed when its sample is there."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder, self._path, self._layout = folder, folder / "out", layout
        self._files = [f"{quote(place.id, safe=' ')}.tif" for place in layout.places]
        with writing(self._path, hint="add --resume"):
            self._path.mkdir(exist_ok=True)

    def write(self, first: int, stored: np.ndarray) -> None:
        """See `eokit.mapping.embedding.layout.Target`."""
        for row, one in enumerate(stored, first):
            self._write(self._layout.places[row], one, self._path / self._files[row])

    def finish(self, facts: dict[str, Any]) -> Path:
        """See `eokit.mapping.embedding.layout.Target`."""
        rows = zip(self._layout.places, self._files, strict=True)
        samples = [place.attributes() | {"file": file} for place, file in rows]
        told = self._layout.attributes | facts | {"samples": samples}
        with writing(self._path, hint="add --resume"):
            (self._path / FACTS_FILE).write_text(json.dumps(told, indent=1), encoding="utf-8")
        return self._path

    def _write(self, place: Place, stored: np.ndarray, out: Path) -> None:
        """A plain GeoTIFF first, since the COG driver copies whole files only."""
        import rasterio
        import rasterio.shutil

        plain, aside = self._folder / "plain.tif", self._folder / "cog.tif"
        block = min(LARGEST_BLOCK, -(-max(stored.shape[1:]) // 16) * 16)
        options = {"blocksize": block, "compress": "DEFLATE", "bigtiff": "IF_SAFER", "overviews": "NONE"}
        try:
            with writing(out, hint="add --resume"):
                self._write_plain(place, stored, plain)
                rasterio.shutil.copy(plain, aside, driver="COG", **options)
                plain.unlink()
                aside.replace(out)
        except rasterio.errors.RasterioError as error:
            reason = " ".join(str(error).split())
            raise TargetError(f"{out}: cannot be written ({reason}); is the disk full? --resume continues") from None

    def _write_plain(self, place: Place, stored: np.ndarray, path: Path) -> None:
        import rasterio
        from rasterio.transform import Affine

        assert place.transform is not None
        coding, (count, height, width) = self._layout.coding, stored.shape
        shape = {"count": count, "height": height, "width": width, "dtype": stored.dtype, "nodata": coding.unseen}
        grid = {"crs": place.crs, "transform": Affine(*place.transform)}
        told = self._layout.attributes
        tags = {f"EOKIT_{key.upper()}": str(told[key]) for key in ("bundle", "level", "made_of")}
        if told["synthetic"]:
            tags[SYNTHETIC_TAG] = "yes"
        with rasterio.open(
            path, "w", driver="GTiff", interleave="pixel", bigtiff="IF_SAFER", **shape, **grid
        ) as target:
            target.write(stored)
            target.update_tags(ID=place.id, **tags)
            if coding.scale is not None:
                target.scales = tuple(coding.scale.tolist())


def read_cog_facts(path: Path) -> dict[str, Any]:
    """What a folder of GeoTIFFs of features says of itself; empty for any other folder."""
    try:
        found = json.loads((path / FACTS_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

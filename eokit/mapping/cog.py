"""Writes the two finished maps as Cloud-Optimized GeoTIFFs: classes with colours and names, and the confidence.

Two files, because GIS programs honour a colour table only in a file of one band. Class names go into the file's own
tags and into the `.aux.xml` beside it, where GDAL and QGIS look for category names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from eokit.errors import TargetError
from eokit.files import writing
from eokit.mapping.progress_file import PartialMap
from eokit.mapping.scene import Area
from eokit.viz.map import UNSEEN

BLOCK = 512
"""Pixels along a block of the output, the default of GDAL's COG driver."""
Colour = tuple[int, int, int]


def confidence_path(out: Path) -> Path:
    """Where the confidence of the map `out` lies."""
    return out.with_name(f"{out.stem}_confidence{out.suffix}")


def write_class_map(
    partial: PartialMap, area: Area, out: Path, classes: Sequence[str], colours: Sequence[Colour], tags: dict[str, str]
) -> None:
    """`out` and `out.aux.xml`: class ids as uint8, 255 = nodata, with colour table and class names."""
    table = {number: (*colour, 255) for number, colour in enumerate(colours)} | {UNSEEN: (0, 0, 0, 0)}
    names = {f"CLASS_{number}": name for number, name in enumerate(classes)}
    described = {"description": "class", "tags": tags | names | {"CLASS_NAMES": json.dumps(list(classes))}}
    # The mode, not the nearest pixel: an overview then shows what most of its pixels are.
    _write_category_names(partial, out, classes)  # first: once the map is there, it is whole
    _write_cog(partial, "classes", area, out, described | {"colours": table, "overviews": "MODE"})


def write_confidence(partial: PartialMap, area: Area, out: Path, tags: dict[str, str]) -> None:
    """`out`: the probability of the class on the map in percent, uint8, 255 = nodata."""
    described = {"description": "confidence (probability of the class, percent)", "tags": tags}
    _write_cog(partial, "confidence", area, out, described | {"colours": None, "overviews": "AVERAGE"})


def read_tags(path: Path) -> dict[str, str]:
    """The tags of a map that is there already; empty where it cannot be read."""
    import rasterio

    try:
        with rasterio.open(path) as source:
            return source.tags()
    except rasterio.errors.RasterioIOError:
        return {}


def _write_cog(partial: PartialMap, layer: str, area: Area, out: Path, described: dict[str, Any]) -> None:
    """A plain tiled GeoTIFF first, since the COG driver copies whole files only; then aside, then renamed."""
    import rasterio
    import rasterio.shutil

    plain, aside = partial.folder / f"{layer}.plain.tif", partial.folder / f"{layer}.tif"
    try:
        with writing(out, hint="add --resume"):
            _write_plain(partial, layer, area, plain, described)
            options = {"blocksize": BLOCK, "compress": "DEFLATE", "bigtiff": "IF_SAFER"}
            resampling = described["overviews"]
            rasterio.shutil.copy(plain, aside, driver="COG", overview_resampling=resampling, **options)
            plain.unlink()
            aside.replace(out)
    except rasterio.errors.RasterioError as error:
        raise TargetError(
            f"{out}: cannot be written ({' '.join(str(error).split())}); is the disk full? --resume continues"
        ) from None


def _write_plain(partial: PartialMap, layer: str, area: Area, path: Path, described: dict[str, Any]) -> None:
    import rasterio
    from rasterio.transform import Affine
    from rasterio.windows import Window as Block

    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "nodata": UNSEEN, "compress": "LZW", "sparse_ok": True}
    grid = {"crs": area.crs, "transform": Affine(*area.transform), "height": area.height, "width": area.width}
    blocks = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER"}
    with rasterio.open(path, "w", **profile, **grid, **blocks) as target:
        if described["colours"]:
            target.write_colormap(1, described["colours"])
        target.update_tags(**described["tags"])
        target.set_band_description(1, described["description"])
        for top in range(0, area.height, BLOCK):
            rows = partial.rows(layer, top, top + BLOCK)
            if not (rows == UNSEEN).all():
                target.write(rows, 1, window=Block(0, top, area.width, len(rows)))


def _write_category_names(partial: PartialMap, out: Path, classes: Sequence[str]) -> None:
    """GDAL's side file with the class names, so that a legend shows them: a GeoTIFF cannot hold them itself."""
    names = "\n".join(f"      <Category>{escape(name)}</Category>" for name in classes)
    text = (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{names}\n    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )
    aside = partial.folder / "names.xml"
    with writing(out):
        aside.write_text(text, encoding="utf-8")
        aside.replace(out.with_name(f"{out.name}.aux.xml"))

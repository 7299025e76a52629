"""From a folder of GeoTIFFs to one scene: which file is which date, which band is which, and whether they fit.

Called by `eokit.mapping.predict`. All files must share one grid; nothing is resampled. Everything that can be wrong
with the headers is refused here, before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eokit.data.preprocessing import Input, Preprocessing
from eokit.data.sensors import get_sensor
from eokit.errors import DataError, UsageError, WeightsError
from eokit.mapping.geotiff import REFLECTANCE, File, GeotiffScene, Image, Reading, cause
from eokit.mapping.names import band_of, date_of, days_since_epoch, without_band
from eokit.mapping.scene import SYNTHETIC_TAG, Area, Placed, pixel_sides

SUFFIXES = (".tif", ".tiff")
ANY = ""
"""In place of a modality: files in no subfolder, whose bands tell what they are."""


def open_folder(folder: Path, preprocessing: Preprocessing, reading: Reading) -> Area:
    """The scene in `folder`: its .tif files, or one subfolder per modality (`s2/`, `s1-asc/`).

    DataError: no dated GeoTIFF, damaged files, files on different grids. WeightsError: a band of the model is missing.
    """
    groups = _group(folder, preprocessing)
    files = {key: [_inspect(path, reading) for path in paths] for key, paths in groups.items()}
    everything = [file for row in files.values() for file in row]
    for file in everything[1:]:
        _same_grid(everything[0], file)
    notes: list[str] = []
    if ANY in files:
        images = _recognise(files[ANY], preprocessing, reading, notes)
    else:
        images = {key: _images(row, preprocessing.inputs[key], reading, notes) for key, row in files.items()}
    missing = [key for key in preprocessing.inputs if key not in images]
    if missing:
        notes.append(f"no {', '.join(missing)} in {folder}: the map is drawn from {', '.join(images)} alone")
    for modality, dated in images.items():
        _check_scale(dated[0], preprocessing.inputs[modality], reading)
    scene = GeotiffScene(str(folder), images, preprocessing, reading)
    return _area(scene, images, preprocessing, reading, notes)


def _area(
    scene: GeotiffScene,
    images: dict[str, list[Image]],
    preprocessing: Preprocessing,
    reading: Reading,
    notes: list[str],
) -> Area:
    first = next(iter(images.values()))[0].planes[0][0]
    metres = float(np.sqrt(np.prod(pixel_sides(first.crs, first.transform, scene.height / 2))))
    for modality in images:
        gsd = preprocessing.inputs[modality].gsd
        if not 0.75 <= metres / gsd <= 1.33:
            notes.append(
                f"pixels are {metres:.3g} m, the model was trained on {gsd:g} m ({modality}): expect a poor map"
            )
    identity = {
        "files": [
            [modality, image.day, [[file.path.name, index, *file.stamp] for file, index in image.planes]]
            for modality, row in images.items()
            for image in row
        ],
        "reading": [reading.scale, reading.offset, reading.nodata],
    }
    synthetic = any(file.synthetic for row in images.values() for image in row for file, _ in image.planes)
    return Area(
        first.crs,
        first.transform,
        scene.height,
        scene.width,
        (Placed(scene),),
        identity,
        synthetic,
        tuple(dict.fromkeys(notes)),
        name=Path(scene.name).resolve().name,
    )


def _group(folder: Path, preprocessing: Preprocessing) -> dict[str, list[Path]]:
    """Files by modality where subfolders are named so, else all under `ANY`."""
    by_name = {key: _tiffs(folder / key) for key in preprocessing.inputs if (folder / key).is_dir()}
    found = {key: paths for key, paths in by_name.items() if paths}
    if found:
        return found
    paths = _tiffs(folder)
    if not paths:
        wanted = ", ".join(f"{key}/" for key in preprocessing.inputs)
        raise DataError(f"{folder}: no GeoTIFF here ({' '.join(SUFFIXES)}), nor in subfolders named {wanted}")
    return {ANY: paths}


def _tiffs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def _inspect(path: Path, reading: Reading) -> File:
    """Read the header of one file; a DataError where it has no date or place, or is not whole."""
    import rasterio
    from rasterio.enums import MaskFlags

    try:
        with rasterio.open(path) as source:
            tags = source.tags()
            when = date_of(path.name, {**source.tags(ns="IMAGERY"), **tags})
            if when is None:
                raise DataError(f"{path}: no date in its name (20200113, 2020-01-13, ...) nor in its tags; rename it")
            if source.crs is None:
                raise DataError(f"{path}: has no coordinate system; give it one with gdal_edit -a_srs EPSG:...")
            _check_whole(source, path)
            stat = path.stat()
            return File(
                path=path,
                day=days_since_epoch(when),
                size=(source.height, source.width),
                crs=source.crs.to_wkt(),
                transform=tuple(source.transform)[:6],
                dtype=source.dtypes[0],
                descriptions=source.descriptions,
                stamp=(stat.st_size, stat.st_mtime_ns),
                nodata=source.nodata if source.nodata is not None else reading.nodata,
                masked=any(MaskFlags.per_dataset in flags for flags in source.mask_flag_enums),
                tiled=source.block_shapes[0][1] < source.width or source.width <= 512,
                synthetic=tags.get(SYNTHETIC_TAG, "").lower() == "yes",
            )
    except rasterio.errors.RasterioIOError as error:
        raise DataError(f"{path}: is no GeoTIFF that can be read ({cause(error)})") from None


def _check_whole(source: Any, path: Path) -> None:
    """Refuse a file that ends before its last block, as an interrupted download does."""
    rows, columns = source.block_shapes[-1]
    last = f"{(source.width - 1) // columns}_{(source.height - 1) // rows}"
    offset = source.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", source.count)
    length = source.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", source.count)
    if offset is None or length is None:
        return
    end, size = int(offset) + int(length), path.stat().st_size
    if end > size:
        raise DataError(f"{path}: cut short, it has {size:,} bytes and its last block ends at {end:,}; copy it again")


def _same_grid(first: File, other: File) -> None:
    from rasterio.crs import CRS

    for field_name in ("size", "crs", "transform"):
        mine, its = getattr(first, field_name), getattr(other, field_name)
        if field_name == "crs":
            same = mine == its or CRS.from_user_input(mine) == CRS.from_user_input(its)
            mine, its = (CRS.from_user_input(one).to_string() for one in (mine, its))
        elif field_name == "transform":
            pixel = max(abs(mine[0]), abs(mine[1]))
            same = np.allclose(mine, its, rtol=0, atol=0.01 * pixel) and np.allclose(
                np.delete(mine, (2, 5)), np.delete(its, (2, 5)), rtol=1e-6, atol=1e-9 * pixel
            )
        else:
            same = mine == its
        if not same:
            what = {"size": "rows x columns", "crs": "coordinate system", "transform": "geotransform"}[field_name]
            raise DataError(
                f"{other.path}: {what} {_short(its)}, but {first.path.name} has {_short(mine)};"
                " all files of a scene must share one grid (gdalwarp -t_srs ... -tr ... -te ...)"
            )


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) < 60 else value[:57] + "..."
    return "(" + ", ".join(f"{one:.9g}" for one in value) + ")"


def _recognise(
    files: Sequence[File], preprocessing: Preprocessing, reading: Reading, notes: list[str]
) -> dict[str, list[Image]]:
    """The images as the first modality of the model whose bands the files have."""
    failures = []
    for modality, one in preprocessing.inputs.items():
        own: list[str] = []
        try:
            images = _images(files, one, reading, own)
        except WeightsError as error:
            failures.append(error)
            continue
        notes += own
        return {modality: images}
    raise failures[0]


def _images(files: Sequence[File], one: Input, reading: Reading, notes: list[str]) -> list[Image]:
    """Files, or groups of one-band files of one date, as images with the bands that the model wants."""
    known = get_sensor(one.sensor).band_names
    groups: dict[tuple[int, str], dict[str, tuple[File, int]]] = {}
    for file in files:
        band = band_of(file.path.stem, known) if len(file.descriptions) == 1 else None
        if band is not None and reading.bands is None:
            groups.setdefault((file.day, without_band(file.path.stem, band)), {})[band] = (file, 1)
            continue
        names = _band_names(file, one, reading, notes)
        numbered = {name: (file, index) for index, name in enumerate(names, start=1) if name is not None}
        groups[file.day, file.path.stem] = numbered
    images = []
    for (day, _), planes in sorted(groups.items(), key=lambda item: item[0]):
        missing = [band for band in one.bands if band not in planes]
        if missing:
            where = next(iter(planes.values()))[0].path if planes else files[0].path
            raise WeightsError(
                f"{where}: band {' '.join(missing)} is missing, found {' '.join(planes) or 'none'}; the model was"
                f" trained on {one.sensor} bands {' '.join(one.bands)}"
            )
        images.append(Image(day, tuple(planes[band] for band in one.bands)))
    return images


def _band_names(file: File, one: Input, reading: Reading, notes: list[str]) -> list[str | None]:
    """The band names of a multi-band file: as given, as described in it, else as its sensor's set of that count."""
    sensor, count = get_sensor(one.sensor), len(file.descriptions)
    if reading.bands is not None:
        if len(reading.bands) != count:
            raise DataError(
                f"{file.path}: has {count} bands, --bands names {len(reading.bands)} ({','.join(reading.bands)})"
            )
        return [band_of(name, sensor.band_names) for name in reading.bands]
    described = [band_of(text, sensor.band_names) for text in file.descriptions]
    if any(described):
        return described
    if count in sensor.band_sets:
        names = sensor.band_sets[count]
        notes.append(
            f"the files do not name their {count} bands; assumed {one.sensor} {','.join(names)} in this order"
            " (--bands says otherwise)"
        )
        return list(names)
    sets = ", ".join(map(str, sensor.band_sets)) or "none"
    raise WeightsError(
        f"{file.path}: its {count} bands have no names and {one.sensor} has no usual set of {count} (known: {sets});"
        " name them with --bands B02,B03,..."
    )


def _check_scale(image: Image, one: Input, reading: Reading) -> None:
    """Floats of 0..1 where the model wants reflectance x 10000 are the commonest silent mistake: refuse them."""
    import rasterio

    file, index = image.planes[0]
    if (
        reading.scale != 1
        or not get_sensor(one.sensor).unit.startswith(REFLECTANCE)
        or np.dtype(file.dtype).kind != "f"
    ):
        return
    with rasterio.open(file.path) as source:
        size = (min(source.height, 256), min(source.width, 256))
        sample = source.read(index, out_shape=size, masked=True).compressed()
    sample = sample[np.isfinite(sample)]
    if sample.size and sample.max() <= 2:
        raise UsageError(
            f"{file.path}: {file.dtype} values up to {sample.max():.3g} look like reflectance 0..1, the model takes"
            f" {get_sensor(one.sensor).unit}; add --scale 10000"
        )

"""Tiny made-up trees in the layout of PASTIS-R: 8 px patches, a few dates. Nothing in them is real."""

import json

import numpy as np

FOLDERS = {"s2": ("DATA_S2", "S2"), "s1-asc": ("DATA_S1A", "S1A"), "s1-des": ("DATA_S1D", "S1D")}
DATES = {"s2": 6, "s1-asc": 7, "s1-des": 5}
IDS = (10000, 10001, 20000, 30000)
ORIGIN = (500000, 5200000)
"""EPSG:32631: the top left corner of the first patch."""


def make_tree(root, ids=IDS, size=8, dates=None):
    """A whole tree at `root`: patches side by side in tile t31tgn, dates five days apart, folds 1, 2, ..."""
    rng = np.random.default_rng(0)
    dates = DATES if dates is None else dates
    features = []
    for number, id in enumerate(ids):
        for name, count in dates.items():
            save(root, name, id, pixels(rng, name, count, size))
        target = rng.integers(0, 20, (3, size, size)).astype(np.uint8)
        save_label(root, "ANNOTATIONS/TARGET", id, target)
        save_label(root, "ANNOTATIONS/ParcelIDs", id, rng.integers(0, 5, (size, size)).astype(np.int32))
        save_label(root, "INSTANCE_ANNOTATIONS/INSTANCES", id, rng.integers(0, 5, (size, size)))
        features.append(feature(number, id, size, {name: season(count) for name, count in dates.items()}))
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    write_metadata(root, {"type": "FeatureCollection", "crs": crs, "features": features})
    return root


def pixels(rng, name, count, size):
    if name == "s2":
        return rng.integers(1, 9000, (count, 10, size, size)).astype(np.int16)
    return rng.normal(-12, 4, (count, 3, size, size)).astype(np.float16)


def season(count):
    """{"0": 20180903, "1": 20180908, ...}"""
    return {str(number): 20180903 + 5 * number if number < 5 else 20181001 + number for number in range(count)}


def feature(number, id, size, dates):
    properties = {"ID_PATCH": id, "Fold": number % 5 + 1, "N_Parcel": 4, "TILE": "t31tgn"}
    properties |= {f"dates-{FOLDERS[name][1]}": table for name, table in dates.items()}
    left, top = ORIGIN[0] + number * size * 10, ORIGIN[1]
    return {
        "type": "Feature",
        "id": str(id),
        "properties": properties,
        "geometry": {"type": "MultiPolygon", "coordinates": [[box_in_lambert93(left, top, size * 10)]]},
    }


def box_in_lambert93(left, top, metres):
    from pyproj import Transformer

    x = [left, left + metres, left + metres, left, left]
    y = [top, top, top - metres, top - metres, top]
    corners = Transformer.from_crs("EPSG:32631", "EPSG:2154", always_xy=True).transform(x, y)
    return [list(corner) for corner in zip(*corners, strict=True)]


def path_of(root, name, id):
    folder, prefix = FOLDERS[name]
    return root / folder / f"{prefix}_{id}.npy"


def save(root, name, id, array):
    path = path_of(root, name, id)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def save_label(root, kind, id, array):
    path = root / f"{kind}_{id}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def read_metadata(root):
    return json.loads((root / "metadata.geojson").read_text())


def write_metadata(root, collection):
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.geojson").write_text(json.dumps(collection))


def edit(root, id, **properties):
    """Change properties of one patch; a value of None removes it."""
    collection = read_metadata(root)
    for one in collection["features"]:
        if one["properties"]["ID_PATCH"] == id:
            one["properties"] |= properties
            one["properties"] = {key: value for key, value in one["properties"].items() if value is not None}
    write_metadata(root, collection)


def add_spot(root, ids=IDS, size=80):
    """SPOT images of `size` px over every patch."""
    import rasterio

    folder = root / "DATA_SPOT" / "PASTIS_SPOT6_RVB_1M00_2019"
    folder.mkdir(parents=True)
    for id in ids:
        image = np.random.default_rng(id).integers(0, 255, (3, size, size), dtype=np.uint8)
        path = folder / f"SPOT6_RVB_1M00_2019_{id}.tif"
        profile = {"count": 3, "height": size, "width": size, "dtype": "uint8", "crs": "EPSG:32631"}
        grid = rasterio.Affine(1, 0, ORIGIN[0], 0, -1, ORIGIN[1])
        with rasterio.open(path, "w", driver="GTiff", transform=grid, **profile) as file:
            file.write(image)

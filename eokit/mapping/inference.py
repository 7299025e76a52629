"""The model of a bundle as a map needs it, and batches of tiles made ready for it by reading threads.

Called by `eokit.mapping.predict`, `draw` and `dry_run`. Anything that turns a Batch into logits, and says where they
mean something, can stand in for the model.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from eokit.data.collate import collate
from eokit.data.dataset import DatePolicy
from eokit.data.preprocessing import Preprocessing
from eokit.data.sample import Batch, Sample, Series, Where
from eokit.errors import UsageError
from eokit.mapping.tiles import Tile
from eokit.models.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle, find_bundle, load_bundle
from eokit.nn.device import pick_device
from eokit.tasks.classification import ClassificationModel
from eokit.tasks.segmentation import SegmentationModel

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Predictor:
    """What draws: `model` turns a Batch into logits (B, K, H, W) and where it saw anything (B, H, W) bool.

    identity: tells the model from any other one.
    dates, size: dates and pixels (along an edge) of the samples that the model learned from, None: any.
    learned: the bundle's provenance, what the model learned from.
    name: what a picture calls it. label: the layer whose classes it learned.
    """

    model: Callable[[Batch], tuple[Tensor, Tensor]]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    patch_size: int
    identity: str
    device: torch.device
    synthetic: bool = False
    dates: int | None = None
    size: int | None = None
    learned: Mapping[str, Any] = field(default_factory=dict)
    name: str = "model"
    label: str = "semantic"


def load_predictor(path: Path, device: str = "auto") -> Predictor:
    """The fine-tuned model of the bundle at `path`; a bundle without a head is a WeightsError."""
    chosen = pick_device(device)
    folder = find_bundle(path)
    bundle = load_bundle(folder)
    if (bundle.task or {}).get("kind") in ClassificationModel.kinds:
        raise UsageError(
            f"{folder} tells classes of whole samples and draws no map;"
            " score it with eokit evaluate, or take its features with eokit embed"
        )
    model = SegmentationModel.from_bundle(bundle, str(folder)).to(chosen).eval()
    return Predictor(
        model=model.logits_and_seen,
        preprocessing=bundle.preprocessing,
        classes=model.task.classes,
        patch_size=_patch_pixels(bundle, model, folder),
        identity=bundle_digest(folder),
        device=chosen,
        synthetic=bool(bundle.provenance.get("synthetic")),
        learned=bundle.provenance,
        dates=model.task.dates,
        size=model.task.size,
        name=_name(folder),
        label=model.task.label,
    )


def _patch_pixels(bundle: Bundle, model: SegmentationModel, folder: Path) -> int:
    """Pixels of the map along a patch; a UsageError where its labels are not on the grid of the first modality."""
    if not bundle.preprocessing.inputs:  # open: what is drawn from tells the modalities
        return bundle.encoder.patch_size
    name, first = next(iter(bundle.preprocessing.inputs.items()))
    patch = bundle.encoder.patch_pixels(name, len(first.bands))
    if patch != model.patch:
        raise UsageError(
            f"{folder} draws {model.patch} x {model.patch} labels where {name} has {patch} x {patch} pixels, and a map"
            f" is drawn on the grid of {name}; score it with eokit evaluate"
        )
    return patch


def _name(folder: Path) -> str:
    """The folder of the bundle, or of its run where the bundle is called nothing but `bundle`."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "bundle" else folder.name


def bundle_digest(folder: Path) -> str:
    """What tells a bundle from any other one."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Prepared:
    """Tiles that some date shows, as a batch; `seen` (B, h, w) bool. `batch` is None where no tile shows anything."""

    tiles: tuple[Tile, ...]
    seen: np.ndarray
    batch: Batch | None
    read: int
    """How many tiles were read, with those that show nothing."""


def prepare(tiles: Sequence[Tile], predictor: Predictor, most_dates: int | None = None) -> Prepared:
    """Read and normalise tiles; dates that show nothing of a tile and tiles that no date shows are left out.

    most_dates: read at most so many dates of each modality, evenly spaced over those of the scene.
    """
    kept, masks, samples = [], [], []
    for tile in tiles:
        read = {key: _series(tile, key, predictor, most_dates) for key in tile.scene.days}
        seen: np.ndarray = np.any([shown for _, shown in read.values()], axis=0)
        if seen.any():
            kept.append(tile)
            masks.append(seen)
            samples.append(Sample({key: series for key, (series, _) in read.items()}, Where(tile.scene.name)))
    batch = collate(samples) if samples else None
    return Prepared(tuple(kept), np.array(masks), batch, len(tiles))


def _series(tile: Tile, modality: str, predictor: Predictor, most_dates: int | None) -> tuple[Series, np.ndarray]:
    """One modality of a tile, padded to whole patches, and where (h, w) any date shows it."""
    days, preprocessing = tile.scene.days[modality], tile.scene.preprocessing
    chosen = DatePolicy(most_dates or max(len(days), 1)).pick(len(days), None)
    values, valid = preprocessing.apply(modality, tile.scene.read(modality, tile.window, chosen))
    shown = np.logical_or.reduce(valid, axis=0)
    days, dates = days[chosen], np.flatnonzero(valid.any(axis=(1, 2)))
    if len(dates) < len(days):
        dates = dates if len(dates) else np.arange(1)
        values, valid, days = values[dates], valid[dates], days[dates]
    # By copies of the last row and column: of unseen pixels, a patch at the edge would have too many to count as seen.
    edges = [(0, -side % predictor.patch_size) for side in valid.shape[1:]]
    if np.any(edges):
        values = np.pad(values, [(0, 0), (0, 0), *edges], "edge")
        valid = np.pad(valid, [(0, 0), *edges], "edge")
    parts = torch.from_numpy(values), torch.from_numpy(days), torch.from_numpy(valid)
    return Series(*parts, preprocessing.inputs[modality].sensor), shown


@torch.inference_mode()
def probabilities(predictor: Predictor, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """(B, K, h, w) float32 class probabilities of the prepared tiles, and (B, h, w) bool where they count.

    A pixel that some date shows does not count in a patch that the model did not see: its class would be the head's
    bias. Training leaves such pixels out as well.
    """
    assert prepared.batch is not None
    logits, seen = predictor.model(prepared.batch.to(predictor.device))
    height, width = prepared.seen.shape[1:]
    shares = logits.float()[..., :height, :width].softmax(dim=1).cpu().numpy()
    return shares, prepared.seen & seen[..., :height, :width].cpu().numpy()


def read_ahead(make: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Iterator[Made]:
    """`map(make, items)` in order, with `workers` threads at work on the next items; 0: each when it is asked for."""
    if workers < 1:
        yield from map(make, items)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="read-tiles") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

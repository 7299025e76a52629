"""Published weights as a bundle, with or without the statistics of a store. Called by `eokit models convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eokit import __version__
from eokit.data.preprocessing import Preprocessing
from eokit.data.store import Store
from eokit.errors import UsageError
from eokit.models.bundle import CONFIG_FILE, Bundle, save_bundle
from eokit.models.published import read_tensors
from eokit.models.registry import published_hook
from eokit.tasks.inputs import own_inputs


@dataclass(frozen=True)
class Converted:
    """A bundle that was made. matched: tensors of the encoder, all of them. left_out: owner -> tensors of the file.

    modalities: those whose statistics the bundle has, none for an open one. words: the match for people.
    """

    path: Path
    family: str
    matched: int
    left_out: dict[str, int]
    words: str
    modalities: tuple[str, ...]
    synthetic: bool
    notes: tuple[str, ...]


def convert(family: str, file: Path, out: Path, data: Path | None = None, overwrite: bool = False) -> Converted:
    """Write the published weights in `file` as a bundle at `out`.

    data: a store whose statistics the bundle takes; None leaves them open, so that whatever reads a store with the
    bundle standardises by that store's own. WeightsError: the tensors are not those of the family, or the store's
    bands are not those that it expects.
    """
    _check_target(out, overwrite)
    take = published_hook(family, "from_published")
    store = None if data is None else Store.open(data)
    published = take(read_tensors(file), str(file))
    preprocessing, notes = Preprocessing({}), ["no statistics: every store is standardised by its own (--data STORE)"]
    facts: dict[str, Any] = {"eokit": __version__, "recipe": "converted", "source": file.name, "synthetic": False}
    if store is not None:
        preprocessing, notes = own_inputs(published.encoder, store, str(file))
        facts |= {"synthetic": store.synthetic, "statistics_of": store.dataset}
    save_bundle(out, Bundle(published.encoder, preprocessing, provenance=facts))
    return Converted(
        path=out,
        family=family,
        matched=published.matched,
        left_out=published.left_out,
        words=published.words,
        modalities=tuple(preprocessing.inputs),
        synthetic=facts["synthetic"],
        notes=tuple(notes),
    )


def _check_target(out: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an older bundle, and that only where it is asked for."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CONFIG_FILE).is_file():
        raise UsageError(f"{out}: is there and is no bundle, so it is not replaced; choose another place")
    if not overwrite:
        raise UsageError(f"{out}: is there already; add --overwrite to replace it")

"""What pretraining gains for a linear probe: over random weights, and over a linear layer on the raw series.

    python benchmarks/probe_gain.py BUNDLE STORE --set features=dense --set dense=s2 --set patch_metres=10

The three are scored on the same test patches or samples, as `eokit evaluate` does with these settings, and in each of
1,000 resamples the same ones are drawn for all: the intervals, 95 %, are of the difference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from eokit.evaluation.bootstrap import RESAMPLES
from eokit.evaluation.maps import MAP_PROTOCOLS, MapOutcome
from eokit.evaluation.protocols import SAMPLE_PROTOCOLS
from eokit.evaluation.samples import SampleOutcome
from eokit.evaluation.study import EvaluateSettings, lay_out
from eokit.files import write_text
from eokit.tasks.metrics import summarise
from eokit.tasks.multilabel import summarise_multilabel

CONTENDERS: dict[str, dict[str, Any]] = {
    "pretrained": {"protocol": "linear"},
    "random": {"protocol": "linear", "random_init": True},
    "raw": {"protocol": "raw-linear"},
}
ENCODER_ONLY = ("features", "dense", "patch_metres", "tile_of", "dates")
"""Settings of an encoder and what it reads; the raw series are read whole."""


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of eokit evaluate.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write JSON here.")
def main(bundle: Path, store: Path, settings: tuple[str, ...], out: Path | None) -> None:
    given = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in settings)}
    scores, drawn = {}, {}
    for name, protocol in CONTENDERS.items():
        kept = {key: value for key, value in given.items() if name != "raw" or key not in ENCODER_ONLY}
        once, many, metric, units = resampled(EvaluateSettings(bundle=bundle, data=store, **kept, **protocol))
        scores[name], drawn[name] = once, many
        click.echo(f"{name}: {metric} {100 * once:.1f}, {units} test units")
    gains = {}
    for other in ("random", "raw"):
        low, high = np.quantile(drawn["pretrained"] - drawn[other], (0.025, 0.975))
        gain = scores["pretrained"] - scores[other]
        gains[other] = {"gain": gain, "interval_95": [float(low), float(high)]}
        click.echo(f"pretrained over {other}: {100 * gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
    if out is not None:
        told = {"metric": metric, "test_units": units, "settings": given, "scores": scores, "gain_over": gains}
        write_text(out, json.dumps(told, indent=2) + "\n")


def resampled(settings: EvaluateSettings) -> tuple[float, np.ndarray, str, int]:
    """The score of all test units, of each resample of them (R,), its name, and how many units there are."""
    study = lay_out(settings)
    protocols = MAP_PROTOCOLS if study.layer.is_map else SAMPLE_PROTOCOLS
    outcome = protocols[str(settings.protocol)](study)
    units = len(outcome)
    drawn = np.random.default_rng(settings.seed).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
    times = np.concatenate([np.ones((1, units), drawn.dtype), drawn])
    metric = "miou" if study.layer.is_map else "macro_map"
    found = scored(outcome, times, study.labels.ignore)[metric]
    return float(found[0]), found[1:], metric, units


def scored(outcome: MapOutcome | SampleOutcome, times: np.ndarray, ignore: int | None) -> dict[str, np.ndarray]:
    """The summary scores, each (R,), where unit n counts times[r, n] times."""
    if isinstance(outcome, SampleOutcome):
        return summarise_multilabel(outcome.shares.numpy(), outcome.truth.numpy(), times)
    matrices = outcome.matrices.astype(np.float64)
    return summarise(np.tensordot(times, matrices, 1), ignore)


if __name__ == "__main__":
    main()

"""The whole chain on a SYNTHETIC season, offline, on two cores, in minutes: what `eokit demo` runs.

    season -> prepare -> pretrain -> linear probes and a random forest -> finetune -> evaluate -> map -> one HTML page

Each step is the very function that its verb calls; what is small here is the season and the number of steps.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from eokit.config import Settings
from eokit.data.formats import get_format
from eokit.data.store import Store
from eokit.data.synthetic import write_synthetic_pastis
from eokit.data.writer import WriteOptions, write_store
from eokit.errors import UsageError
from eokit.evaluation.protocols import evaluate
from eokit.evaluation.report import BaseReport, Report
from eokit.evaluation.study import EvaluateSettings
from eokit.files import writing
from eokit.mapping.predict import PredictSettings, predict
from eokit.mapping.summary import MapResult
from eokit.training.finetune import FinetuneLoop, FinetuneSettings, finetune
from eokit.training.pretrain import PretrainSettings, pretrain
from eokit.training.settings import LoopSettings
from eokit.viz.confusion import draw_confusion
from eokit.viz.curves import draw_curves
from eokit.viz.page import Picture, Section, write_page
from eokit.viz.quicklook import draw_quicklook
from eokit.viz.scores import draw_scores

WARNING = (
    "Everything on this page is SYNTHETIC: a random generator drew fields, crops, clouds and images. The scores say"
    " that the software works; they say nothing of how well a model maps real crops."
)
STEPS = 7
LEARN_FROM = 15_000
"""Tokens or pixels that the probes and the forest learn from; a forest on all 98,000 pixels would take minutes."""
DATES = (24, 30)
"""Dates of a series, fewest and most."""
PRETRAIN_BATCH, PRETRAIN_LR, FINETUNE_BATCH = 16, 1e-3, 8
Made = TypeVar("Made")


class DemoSettings(Settings):
    """How large the demo is. The defaults are meant for two cores and minutes."""

    out: Path = Path("demo")
    patches: int = Field(160, ge=10, description="patches of the synthetic season, over two places and five folds")
    size: int = Field(32, ge=32, description="edge of a patch, pixels")
    pretrain_steps: int = Field(60, gt=0)
    finetune_steps: int = Field(80, gt=0)
    seed: int = Field(0, ge=0)
    overwrite: bool = False
    quiet: bool = False


@dataclass
class Chain:
    """What the demo has made so far: the paths, the scores by contender, and the seconds of each step."""

    settings: DemoSettings
    reports: dict[str, BaseReport] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """A file or folder of the demo."""
        return self.settings.out / name

    def step(self, title: str, work: Callable[[], Made]) -> Made:
        """Run one step of the chain and say what it is and how long it took."""
        number = len(self.seconds) + 1
        if not self.settings.quiet:
            print(f"[{number}/{STEPS}] {title}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        made = work()
        self.seconds[title] = round(time.perf_counter() - start, 1)
        return made


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Run the chain into `settings.out`; returns the scores, the paths and the seconds of each step."""
    _clear(settings)
    chain = Chain(settings)
    chain.step("draw a synthetic season in the layout of PASTIS-R", lambda: _season(chain))
    chain.step("prepare it into one Zarr store", lambda: _prepare(chain))
    chain.step("pretrain CropSTS without labels", lambda: _pretrain(chain))
    chain.step("probe: pretrained, random, and a random forest on the raw series", lambda: _probe(chain))
    chain.step("fine-tune on the labels", lambda: _finetune(chain))
    maps = chain.step("draw the map of the test fold", lambda: _map(chain))
    page = chain.step("write the report", lambda: _page(chain, maps))
    return {
        "synthetic": True,
        "page": str(page),
        "map": str(maps[0].path),
        "scores": {name: _summary(report) for name, report in chain.reports.items()},
        "seconds": chain.seconds,
    }


def _season(chain: Chain) -> None:
    settings = chain.settings
    write_synthetic_pastis(
        chain.path("PASTIS-R-synthetic"),
        patches=settings.patches,
        size=settings.size,
        seed=settings.seed,
        dates=DATES,
        modalities=("s2",),
    )


def _prepare(chain: Chain) -> None:
    source = get_format("pastis").open_source(chain.path("PASTIS-R-synthetic"))
    write_store(source, chain.path("season.zarr"), WriteOptions(quiet=chain.settings.quiet))


def _pretrain(chain: Chain) -> None:
    settings = chain.settings
    loop = LoopSettings(
        steps=settings.pretrain_steps, batch_size=PRETRAIN_BATCH, lr=PRETRAIN_LR, seed=settings.seed, log_every=2
    )
    pretrain(
        PretrainSettings(
            data=chain.path("season.zarr"),
            out=chain.path("pretrained"),
            preset="tiny",
            loop=loop,
            quiet=settings.quiet,
        )
    )
    draw_curves(
        chain.path("pretrained"), chain.path("pretrained.png"), title="pretraining of CropSTS tiny", synthetic=True
    )


def _probe(chain: Chain) -> None:
    contenders: dict[str, dict[str, Any]] = {
        "linear probe, pretrained": {"bundle": chain.path("pretrained"), "protocol": "linear"},
        "linear probe, random weights": {
            "bundle": chain.path("pretrained"),
            "protocol": "linear",
            "random_init": True,
        },
        "random forest, raw series": {"protocol": "random-forest"},
    }
    for name, how in contenders.items():
        chain.reports[name] = evaluate(_evaluation(chain, **how))


def _finetune(chain: Chain) -> None:
    settings = chain.settings
    loop = FinetuneLoop(steps=settings.finetune_steps, batch_size=FINETUNE_BATCH, seed=settings.seed)
    finetune(
        FinetuneSettings(
            bundle=chain.path("pretrained"),
            data=chain.path("season.zarr"),
            out=chain.path("crops"),
            dates=DATES[1],
            loop=loop,
            quiet=settings.quiet,
        )
    )
    chain.reports["fine-tuned"] = evaluate(_evaluation(chain, bundle=chain.path("crops"), protocol="finetuned"))


def _map(chain: Chain) -> list[MapResult]:
    settings = PredictSettings(
        bundle=chain.path("crops"),
        source=chain.path("season.zarr"),
        out=chain.path("map.tif"),
        folds=chain.reports["fine-tuned"].folds.test,
        overlap=0,
        quiet=chain.settings.quiet,
    )
    return predict(settings)


def _page(chain: Chain, maps: list[MapResult]) -> Path:
    store = Store.open(chain.path("season.zarr"))
    quicklook = draw_quicklook(store, chain.path("season.png"))
    scores = draw_scores(chain.reports, chain.path("scores.png"), title="Test fold of the synthetic season")
    last = chain.reports["fine-tuned"]
    assert isinstance(last, Report)  # its labels are maps
    confusion = draw_confusion(
        last.matrix, last.classes, last.ignore, chain.path("confusion.png"), title="fine-tuned", synthetic=True
    )
    tables = "\n\n".join(report.table() for report in chain.reports.values())
    spent = "\n".join(f"{seconds:6.1f} s  {title}" for title, seconds in chain.seconds.items())
    sections = [
        Section(
            "The season",
            ["Two places, five folds; the last is the test fold."],
            pictures=[Picture(quicklook, SEASON_ALT)],
        ),
        Section(
            "Pretraining without labels",
            ["The student sees each series with whole parcels hidden and predicts its teacher's features there."],
            pictures=[Picture(chain.path("pretrained.png"), CURVES_ALT)],
        ),
        Section(
            "Scores", [SCORES_NOTE], pictures=[Picture(scores, _scores_alt(chain)), Picture(confusion, CONFUSION_ALT)]
        ),
        Section(
            "The map",
            ["The test fold, drawn by the fine-tuned model."],
            pictures=[Picture(one.picture, _map_alt(one)) for one in maps],
        ),
        Section("All figures", block=tables),
        Section("Time, and the commands behind each step", block=f"{spent}\n\n{_commands(chain)}"),
    ]
    return write_page(chain.path(PAGE), "eokit demo: from a season to a crop map", WARNING, sections)


def _scores_alt(chain: Chain) -> str:
    scores = ", ".join(f"{name} {100 * report.scores['miou']:.1f} %" for name, report in chain.reports.items())
    return f"Bars of mIoU, overall accuracy and macro F1 on the test fold; mIoU: {scores}"


def _map_alt(result: MapResult) -> str:
    largest = ", ".join(f"{one.name} {one.share:.0%}" for one in result.classes[:3])
    return (
        "Patches of the test fold side by side: the image in true colour, the labels, the map of classes and its"
        f" confidence; the largest classes are {largest}"
    )


SEASON_ALT = "One patch on five dates of the season with its labels; below, the NDVI of each class through the season"
CURVES_ALT = "Curves of the pretraining by step: loss, learning rate and the figures that would show a collapse"
CONFUSION_ALT = "Confusion matrix of the fine-tuned model: for each true class, the shares of the predicted classes"
SCORES_NOTE = (
    "Bars: scores on the test fold; black lines: 95 % bootstrap intervals over its patches. The probes fit one linear"
    " layer on fixed features; 'random weights' is the same encoder before any training; the random forest sees the"
    " raw series. So short a pretraining need not beat them: the bars show what it did. The probes and the forest learn"
    " from a share of the labels, fine-tuning from all."
)


def _evaluation(chain: Chain, **how: Any) -> EvaluateSettings:
    data, seed, quiet = chain.path("season.zarr"), chain.settings.seed, chain.settings.quiet
    return EvaluateSettings(data=data, seed=seed, quiet=quiet, max_tokens=LEARN_FROM, **how)


def _summary(report: BaseReport) -> dict[str, Any]:
    names = ("miou", "oa", "macro_f1")
    return {name: {"value": report.scores[name], "interval_95": report.interval.get(name)} for name in names}


def _commands(chain: Chain) -> str:
    """The command lines that make the same again, from the season on."""
    settings, store, seed = chain.settings, chain.path("season.zarr"), f"--seed {chain.settings.seed}"
    pretrained, crops = chain.path("pretrained"), chain.path("crops")
    score = f"--data {store} --max-tokens {LEARN_FROM} {seed}"
    folds = ",".join(map(str, chain.reports["fine-tuned"].folds.test))
    return "\n".join(
        (
            f"eokit prepare pastis {chain.path('PASTIS-R-synthetic')} {store}",
            f"eokit pretrain --model cropsts --preset tiny --data {store} --out {pretrained}"
            f" --steps {settings.pretrain_steps} --batch-size {PRETRAIN_BATCH} --lr {PRETRAIN_LR} {seed}",
            f"eokit evaluate {pretrained} --protocol linear {score}",
            f"eokit evaluate {pretrained} --protocol linear --random-init {score}",
            f"eokit evaluate --protocol random-forest {score}",
            f"eokit finetune {pretrained} --data {store} --out {crops} --steps {settings.finetune_steps}"
            f" --batch-size {FINETUNE_BATCH} --dates {DATES[1]} {seed}",
            f"eokit evaluate {crops} {score}",
            f"eokit predict {crops} {store} {chain.path('map.tif')} --folds {folds} --overlap 0",
        )
    )


FOLDERS = ("PASTIS-R-synthetic", "season.zarr", "pretrained", "crops", "crops.run")
PATTERNS = ("season.png", "pretrained.png", "scores.png", "confusion.png", "map*.tif", "map*.tif.aux.xml", "map*.png")
PAGE = "report.html"


def _clear(settings: DemoSettings) -> None:
    """Room to work in: an older demo goes where that was asked for, and nothing else that lies there."""
    out = settings.out
    files = [file for pattern in (*PATTERNS, PAGE) for file in out.glob(pattern)]
    folders = [folder for name in FOLDERS for folder in (out / name, out / f"{name}.partial") if folder.is_dir()]
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (settings.overwrite and (folders or files)):
        raise UsageError(f"{out}: is not empty; add --overwrite to replace an older demo, or choose another --out")
    with writing(out):
        for folder in folders:
            shutil.rmtree(folder)
        for file in files:
            file.unlink()
        out.mkdir(parents=True, exist_ok=True)

"""What an evaluation says: scores with their intervals, as JSON and as a text table.

`Report` comes from a confusion matrix, `MultilabelReport` from the classes of samples that have several.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from eokit.data.folds import Split
from eokit.evaluation.bootstrap import intervals, intervals_multilabel, intervals_of_units
from eokit.tasks.inputs import say_split
from eokit.tasks.metrics import scores
from eokit.tasks.multilabel import THRESHOLD, multilabel_scores

NAMED = 8
"""Classes named of those that have no row in the table, at most; JSON has a row for each."""


@dataclass(frozen=True, kw_only=True)
class BaseReport:
    """Scores of one protocol on one store.

    synthetic: the store, or what the judged weights learned from, was made up. unit: what is counted, "pixel", "token"
    or "sample". interval: score -> (low, high) or None. train_support: labelled units per class that were learned from,
    None where that is not known. details: what the protocol chose (k, penalty, trees). notes: what a reader of the
    scores must know.
    shown, columns: names of summary scores and of a class's scores in the text table. rule: how scores are made.
    """

    shown: ClassVar[dict[str, str]]
    columns: ClassVar[dict[str, str]]
    ending: ClassVar[str]
    protocol: str
    unit: str
    data: str
    synthetic: bool
    folds: Split
    patches: int
    classes: tuple[str, ...]
    interval: dict[str, tuple[float, float] | None]
    train_support: np.ndarray | None = None
    details: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """How the scores are made."""
        raise NotImplementedError

    @property
    def things(self) -> str:
        """What was drawn anew for the intervals."""
        return "samples" if self.unit == "sample" else "patches"

    @property
    def scores(self) -> dict[str, Any]:
        """Summary scores, and `per_class`: a row per class, each with `train_support`."""
        got = self._scores()
        if self.train_support is not None:
            for row in got["per_class"]:
                row["train_support"] = int(self.train_support[row["id"]])
        return got

    def _scores(self) -> dict[str, Any]:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        got = self.scores
        per_class = got.pop("per_class")
        return {
            "protocol": self.protocol,
            "unit": self.unit,
            "data": self.data,
            "synthetic": self.synthetic,
            "folds": self.folds._asdict(),
            self.things: self.patches,
            "scores": got,
            "interval_95": self.interval,
            "rule": self.rule,
            "per_class": per_class,
            **self._more(),
            "details": self.details,
            "provenance": self.provenance,
            "notes": self.notes,
        }

    def _more(self) -> dict[str, Any]:
        return {}

    def table(self) -> str:
        """A text table for people: summary with intervals, then a line per class."""
        got = self.scores
        title = f"{self.protocol} on {self.data}" + (" (SYNTHETIC data or model)" if self.synthetic else "")
        lines = [title, f"per {self.unit}, {self.patches} {self.things}, folds: {say_split(self.folds)}", ""]
        for name, shown in self.shown.items():
            held = self.interval.get(name)
            spread = f"  [{100 * held[0]:5.1f}, {100 * held[1]:5.1f}]" if held else ""
            lines.append(f"{shown:<11} {100 * got[name]:5.1f} %{spread}")
        lines += ["", *self._class_lines(got["per_class"]), ""]
        scored, total = got["n_classes_scored"], len(got["per_class"])
        lines.append(f"Means over the {scored} of {total} classes that occur in the truth; {self.ending}")
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])

    def _class_lines(self, rows: list[dict[str, Any]]) -> list[str]:
        absent = [row["name"] for row in rows if not row["support"]]
        rows = [row for row in rows if row["support"]]
        wide = max((len(row["name"]) for row in rows), default=0)
        head = " ".join(f"{name:>5}" for name in self.columns.values())
        learned = "" if self.train_support is None else f" {'in train':>10}"
        lines = [f"{'class':<{wide}} {head} {self.unit + 's':>10}{learned}"]
        for row in rows:
            told = [f"{100 * row[key]:5.1f}" for key in self.columns]
            learned = f" {row['train_support']:>10}" if "train_support" in row else ""
            lines.append(f"{row['name']:<{wide}} {' '.join(told)} {row['support']:>10}{learned}")
        if absent:  # of a class that is not in the truth no score means anything
            more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
            classes = "1 class" if len(absent) == 1 else f"{len(absent)} classes"
            lines.append(f"no {self.unit} of {classes}: {', '.join(absent[:NAMED])}{more}")
        return lines


@dataclass(frozen=True, kw_only=True)
class Report(BaseReport):
    """Scores from a confusion matrix. matrix: (K, K) summed, rows truth. ignore: the void id."""

    shown: ClassVar[dict[str, str]] = {
        "miou": "mIoU",
        "oa": "OA",
        "macro_f1": "macro F1",
        "macro_precision": "precision",
        "macro_recall": "recall",
    }
    columns: ClassVar[dict[str, str]] = {"iou": "IoU", "f1": "F1", "precision": "prec.", "recall": "rec."}
    ending: ClassVar[str] = "void is not counted."
    ignore: int | None
    matrix: np.ndarray

    @classmethod
    def from_patches(cls, matrices: np.ndarray, *, ignore: int | None, seed: int, **facts: Any) -> Report:
        """A report from one confusion matrix a patch (N, K, K)."""
        return cls(
            matrix=matrices.sum(0),
            interval=intervals(matrices, ignore, seed=seed),
            patches=len(matrices),
            ignore=ignore,
            **facts,
        )

    @classmethod
    def from_samples(cls, matrix: np.ndarray, *, ignore: int | None, seed: int, **facts: Any) -> Report:
        """A report from a matrix (K, K) that counts whole samples."""
        interval = intervals_of_units(matrix, ignore, seed=seed)
        return cls(matrix=matrix, interval=interval, patches=int(matrix.sum()), ignore=ignore, unit="sample", **facts)

    @property
    def rule(self) -> str:
        """How the scores are made."""
        return (
            "from the summed confusion matrix; void out, background in; means over the classes that occur in the truth"
            f" (miou_all: over all, absent ones 0); 95 % bootstrap intervals over {self.things}"
        )

    def _scores(self) -> dict[str, Any]:
        return scores(self.matrix, self.classes, self.ignore)

    def _more(self) -> dict[str, Any]:
        return {"confusion": {"classes": self.classes, "ignore": self.ignore, "matrix": self.matrix.tolist()}}


@dataclass(frozen=True, kw_only=True)
class MultilabelReport(BaseReport):
    """Scores of several classes a sample. summary: what `eokit.tasks.multilabel.multilabel_scores` says."""

    shown: ClassVar[dict[str, str]] = {
        "macro_map": "macro mAP",
        "macro_f1": "macro F1",
        "micro_f1": "micro F1",
        "weighted_f1": "weighted F1",
    }
    columns: ClassVar[dict[str, str]] = {"ap": "AP", "f1": "F1", "precision": "prec.", "recall": "rec."}
    ending: ClassVar[str] = f"a class is told where its score is above {THRESHOLD}."
    summary: dict[str, Any]

    @classmethod
    def from_samples(cls, said: np.ndarray, truth: np.ndarray, *, seed: int, **facts: Any) -> MultilabelReport:
        """A report from what is said of each sample, (n, K) in 0..1, and the truth (n, K)."""
        return cls(
            summary=multilabel_scores(said, truth, facts["classes"]),
            interval=intervals_multilabel(said, truth, seed=seed),
            patches=len(truth),
            unit="sample",
            **facts,
        )

    @property
    def rule(self) -> str:
        """How the scores are made."""
        return (
            f"F1 of classes whose score is above {THRESHOLD}; average precision without interpolation; means over the"
            " classes that occur in the truth (micro_f1: over all decisions); 95 % bootstrap intervals over samples"
        )

    def _scores(self) -> dict[str, Any]:
        return self.summary | {"per_class": [dict(row) for row in self.summary["per_class"]]}

"""What an evaluation says: one dataclass for every protocol, as JSON and as a text table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eokit.data.folds import Split
from eokit.evaluation.bootstrap import intervals
from eokit.tasks.inputs import say_split
from eokit.tasks.metrics import scores

SHOWN = {"miou": "mIoU", "oa": "OA", "macro_f1": "macro F1", "macro_precision": "precision", "macro_recall": "recall"}
"""Summary scores of the text table, with their usual names."""
RULE = (
    "from the summed confusion matrix; void out, background in; means over the classes that occur in the truth"
    " (miou_all: over all, absent ones 0); 95 % bootstrap intervals over patches"
)


@dataclass(frozen=True)
class Report:
    """Scores of one protocol on one store.

    synthetic: the store, or what the judged weights learned from, was made up. unit: what is counted, "pixel" or
    "token". matrix: (K, K) summed, rows truth. interval: score -> (low, high) or None. train_support: labelled units
    per class that were learned from, None where that is not known. details: what the protocol chose (k, penalty,
    trees). notes: what a reader of the scores must know.
    """

    protocol: str
    unit: str
    data: str
    synthetic: bool
    folds: Split
    patches: int
    classes: tuple[str, ...]
    ignore: int | None
    matrix: np.ndarray
    interval: dict[str, tuple[float, float] | None]
    train_support: np.ndarray | None = None
    details: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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

    @property
    def scores(self) -> dict[str, Any]:
        """The scores of `eokit.tasks.metrics.scores`, each class with `train_support`."""
        got = scores(self.matrix, self.classes, self.ignore)
        if self.train_support is not None:
            for row in got["per_class"]:
                row["train_support"] = int(self.train_support[row["id"]])
        return got

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
            "patches": self.patches,
            "scores": got,
            "interval_95": self.interval,
            "rule": RULE,
            "per_class": per_class,
            "confusion": {"classes": self.classes, "ignore": self.ignore, "matrix": self.matrix.tolist()},
            "details": self.details,
            "provenance": self.provenance,
            "notes": self.notes,
        }

    def table(self) -> str:
        """A text table for people: summary with intervals, then a line per class."""
        got = self.scores
        title = f"{self.protocol} on {self.data}" + (" (SYNTHETIC data or model)" if self.synthetic else "")
        lines = [title, f"per {self.unit}, {self.patches} patches, folds: {say_split(self.folds)}", ""]
        for name, shown in SHOWN.items():
            held = self.interval.get(name)
            spread = f"  [{100 * held[0]:5.1f}, {100 * held[1]:5.1f}]" if held else ""
            lines.append(f"{shown:<10} {100 * got[name]:5.1f} %{spread}")
        rows = got["per_class"]
        wide = max(len(row["name"]) for row in rows)
        lines += ["", f"{'class':<{wide}}   IoU    F1  prec.  rec. {self.unit + 's':>10}" + _learned_head(self)]
        for row in rows:
            if not row["support"]:
                cells = "    -" + "     -" * 3  # not in the truth: no score of it means anything
            else:
                cells = " ".join(f"{100 * row[key]:5.1f}" for key in ("iou", "f1", "precision", "recall"))
            learned = f" {row['train_support']:>10}" if "train_support" in row else ""
            lines.append(f"{row['name']:<{wide}} {cells} {row['support']:>10}{learned}")
        scored, total = got["n_classes_scored"], len(rows)
        lines += ["", f"Means over the {scored} of {total} classes that occur in the truth; void is not counted."]
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])


def _learned_head(report: Report) -> str:
    return "" if report.train_support is None else f" {'in train':>10}"

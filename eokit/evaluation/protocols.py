"""Evaluation protocols on a store's folds. Called by `eokit evaluate` and the demo.

                 label maps                                           labels of whole samples
knn              nearest labelled tokens of the training folds vote   nearest vectors of samples
linear           one linear layer per token, its logits upsampled     one linear layer on the vector of a sample
finetuned        the bundle's own head                                the same
random-forest    on raw pixel series, needs no bundle                 on mean and deviation of each band
raw-linear       one linear layer on raw pixel series, no bundle      one on mean and deviation of each band

Maps are scored per pixel, kNN per token.
"""

from __future__ import annotations

from eokit.evaluation.maps import MAP_PROTOCOLS
from eokit.evaluation.report import BaseReport
from eokit.evaluation.samples import SAMPLE_PROTOCOLS
from eokit.evaluation.study import EvaluateSettings, chosen_protocol, lay_out, provenance

FEW = 20
"""With fewer test samples than this a bootstrap over them hardly varies, and classes drop out of its resamples."""


def evaluate(settings: EvaluateSettings) -> BaseReport:
    """Score a bundle (or a baseline) on the test folds of a store."""
    study = lay_out(settings)
    protocol = chosen_protocol(settings, study.bundle)
    outcome = (MAP_PROTOCOLS if study.layer.is_map else SAMPLE_PROTOCOLS)[protocol](study)
    if len(outcome) < FEW:
        things = "patches" if study.layer.is_map else "samples"
        study.notes.append(f"only {len(outcome)} {things}: the intervals are rough, rare classes come and go")
    return outcome.report(
        study,
        protocol=protocol + (" (random encoder)" if settings.random_init else ""),
        data=study.store.dataset,
        synthetic=study.synthetic,
        folds=study.split,
        classes=study.classes,
        provenance=provenance(study),
        notes=tuple(study.notes),
    )

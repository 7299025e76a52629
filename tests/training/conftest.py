"""What the tests of fine-tuning share."""

from __future__ import annotations

import pytest

from eokit.training.finetune import FinetuneLoop, FinetuneSettings

LOOP = {"steps": 6, "batch_size": 4, "workers": 0, "log_every": 1, "save_every": 3, "keep": 9, "device": "cpu"}


@pytest.fixture
def settings(store, bundle, tmp_path):
    """Settings of a short run on the module's `store` and `bundle`, with changes; `loop_...` changes the loop."""

    def make(**changes) -> FinetuneSettings:
        loop = LOOP | {key[5:]: changes.pop(key) for key in list(changes) if key.startswith("loop_")}
        values = {"bundle": bundle, "data": store.path, "out": tmp_path / "out", "dates": 4, "quiet": True}
        return FinetuneSettings(**(values | changes), loop=FinetuneLoop(**loop))

    return make

"""What tests of all parts need: the real samples that are not part of the repository."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: torch must not start threads for all in each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("EOKIT_KEEP_MEMORY", "0")  # commands called within the tests' process must not change it

# A job in the background ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

BESIDE = Path(__file__).parents[2] / "shared"
"""Where the samples lie unless EOKIT_SHARED says otherwise: beside the checkout, as where changes are checked. They are
real patches of published data sets, too large for the repository; a clone without them skips the tests marked `shared`.
"""


@pytest.fixture(scope="session")
def shared() -> Callable[..., Path]:
    """`shared("pastis-real")`: the folder of that sample, `shared("anysat", "parity")` of recorded cases; the test is
    skipped where it is missing.
    """

    def sample(name: str, kind: str = "data") -> Path:
        folder = Path(os.environ.get("EOKIT_SHARED") or BESIDE) / kind / name
        if not folder.is_dir():
            pytest.skip(f"no {folder}; EOKIT_SHARED=FOLDER says where {kind}/{name} is")
        return folder

    return sample

"""A command that is stopped on its way."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def stop(typed: list[str], signal: int, ready: Callable[[], Any], **how: Any) -> None:
    """Start `eokit` with what was typed, send `signal` once it is `ready`; it must end as interrupted.

    how: of subprocess.Popen.
    """
    command = [sys.executable, "-m", "eokit_cli.main", *typed]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, **how)
    while not ready():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert told.splitlines()[-1] == b"eokit: interrupted"

"""Writing so that a file that is there is whole, and a disk that refuses is one line; used by whatever writes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eokit.errors import TargetError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(target: Path, *also: type[Exception], hint: str = "") -> Iterator[None]:
    """Turn what the system says about a place that cannot be written into one TargetError.

    also: what libraries raise instead of OSError. hint: how to go on once there is room.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if getattr(error, "errno", None) in NO_ROOM or "No space left" in reason:
            way_out = f"{_free(target)} are free: make room{hint and f', then {hint}'}"
        else:
            way_out = "choose a place that can, or change its permissions"
        raise TargetError(f"{target}: cannot be written ({reason}); {way_out}") from None


def write_text(path: Path, text: str) -> Path:
    """Write a small text file aside and rename it, making its folder; TargetError where that is refused.

    A link stays, and what it leads to is written; a pipe or a device is refused, as a rename would replace it.
    """
    if path.exists() and not path.is_file():
        raise TargetError(f"{path}: is no plain file; name another")
    path = path.resolve() if path.is_symlink() else path
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text, encoding="utf-8")
            aside.replace(path)
        except OSError:
            if aside.parent.is_dir():
                aside.unlink(missing_ok=True)
            raise
    return path


@contextmanager
def cleaned(aside: Path) -> Iterator[None]:
    """A folder that is made aside: nothing of an earlier one is in it, and nothing of it stays after a failure."""
    shutil.rmtree(aside, ignore_errors=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def put_in_place(aside: Path, path: Path) -> None:
    """Rename the whole folder or file `aside` to `path`; what is there is moved away first and removed last."""
    old = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    if path.exists():
        path.rename(old)
    try:
        aside.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    if old.is_file():
        old.unlink()
    shutil.rmtree(old, ignore_errors=True)


def _free(target: Path) -> str:
    place = next((parent for parent in target.absolute().parents if parent.exists()), Path("/"))
    try:
        room = os.statvfs(place)
    except OSError:
        return "unknown amounts"
    return f"{room.f_bavail * room.f_frsize / 1e6:.1f} MB"

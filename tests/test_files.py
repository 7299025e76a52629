"""Writing aside, and what a refusing disk becomes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from eokit.errors import TargetError
from eokit.files import cleaned, put_in_place, write_text, writing


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_a_whole_folder_replaces_an_older_one(tmp_path: Path):
    old, new = folder(tmp_path / "out", "old"), folder(tmp_path / "aside", "new")
    put_in_place(new, old)
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert (old / "file").read_text() == "new"


def test_the_older_folder_comes_back_where_the_new_one_cannot_be_renamed(tmp_path: Path):
    old = folder(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "never made", old)
    assert (old / "file").read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_nothing_stays_of_a_folder_that_failed(tmp_path: Path):
    folder(tmp_path / "aside", "half of an earlier try")
    with pytest.raises(FileNotFoundError), cleaned(tmp_path / "aside"):
        folder(tmp_path / "aside" / "missing", "half")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_how_much_is_free_and_how_to_go_on():
    said = r"out: cannot be written \(No space.*MB are free: make room, then go on"
    with pytest.raises(TargetError, match=said), writing(Path("out"), hint="go on"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_older_file_survives_a_failed_write(tmp_path: Path, monkeypatch):
    file = write_text(tmp_path / "a" / "facts.json", "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
    with pytest.raises(TargetError, match="choose a place that can"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert [one.name for one in file.parent.iterdir()] == ["facts.json"]


def test_a_link_stays_and_its_file_is_written(tmp_path: Path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
def test_a_pipe_is_refused_and_stays(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TargetError, match="no plain file"):
        write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()

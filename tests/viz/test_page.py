"""A page holds its pictures, and replaces an older one only when it is whole."""

import errno
import os
from pathlib import Path

import pytest

from eokit.errors import TargetError
from eokit.viz.page import Picture, Section, write_page


def test_a_page_holds_its_pictures_and_escapes_its_text(tmp_path):
    (tmp_path / "map.png").write_bytes(b"\x89PNG")
    picture = Picture(tmp_path / "map.png", 'fields, "mapped"')
    page = write_page(tmp_path / "report.html", "A & B", "made up", [Section("<h>", pictures=[picture])])
    text = page.read_text(encoding="utf-8")
    assert "A &amp; B" in text
    assert "&lt;h&gt;" in text
    assert '<img alt="fields, &quot;mapped&quot;" src="data:image/png;base64,iVBORw==">' in text


def test_a_full_disk_is_one_line_and_keeps_the_older_page(tmp_path, monkeypatch):
    def cut_off(self, text, **_):
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    page = write_page(tmp_path / "report.html", "old", "", [])
    before = page.read_bytes()
    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(TargetError, match=r"report\.html: cannot be written \(No space left on device\)"):
        write_page(page, "new", "", [])
    assert page.read_bytes() == before
    assert list(tmp_path.iterdir()) == [page]

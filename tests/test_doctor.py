"""`eokit doctor` lists the compiled decoder of stores, says why it is missing, and tries it."""

from __future__ import annotations

import json
import sys

import pytest

from eokit import doctor
from eokit.ops import library


def decoder() -> dict:
    (one,) = [one for one in doctor.examine()["backends"] if one["name"] == "decoder"]
    return one


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """A package in a folder without the compiled decoder."""
    monkeypatch.setitem(sys.modules, "eokit._native", None)
    monkeypatch.setattr(library, "PACKAGE", tmp_path)
    monkeypatch.setattr(library, "BUILD_REPORT", tmp_path / "report.json")
    return tmp_path


def test_the_compiled_decoder_tells_compiler_and_instruction_sets():
    pytest.importorskip("eokit._native", reason="the compiled libraries were not built")
    one = decoder()
    assert one["available"]
    assert "_native" in one["reason"]
    assert "this CPU runs portable" in one["reason"]
    assert "compiled decoder agrees" in doctor.examine()["self_test"]["store chunk"]["note"]


def test_a_decoder_that_was_not_built_is_told_with_the_reason_of_the_build(hidden):
    (hidden / "report.json").write_text(json.dumps({"_native": "the build has no pybind11"}))
    one = decoder()
    assert not one["available"]
    assert one["reason"].endswith("the build has no pybind11")
    assert "decoded by numcodecs" in one["reason"]


def test_without_any_report_the_decoder_was_never_built(hidden):
    assert "it was never built; install eokit with a C++ compiler" in decoder()["reason"]


def test_a_decoder_that_does_not_load_says_so(hidden):
    (hidden / "_native.abi3.so").touch()
    assert "it does not load: " in decoder()["reason"]


def test_the_self_test_goes_without_the_decoder(hidden):
    one = doctor.examine()["self_test"]["store chunk"]
    assert one["ok"]
    assert "through numcodecs" in one["note"]


def test_a_decoder_that_is_wrong_fails_the_self_test(monkeypatch):
    native = pytest.importorskip("eokit._native", reason="the compiled libraries were not built")
    monkeypatch.setattr(native, "decode_rows", lambda *_: True)
    report = doctor.examine()
    assert report["self_test"]["store chunk"]["note"] == "ArithmeticError: a chunk changed in the compiled decoder"
    assert not doctor.healthy(report)

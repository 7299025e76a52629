"""Loading the compiled libraries: what is missing never breaks the import and is told with its reason."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eokit import ops
from eokit.errors import UsageError
from eokit.ops import attention, backends, library, use_backend

CSRC = Path(__file__).resolve().parents[2] / "csrc"

USE = """
import json, torch
from eokit.ops import attention, backends
q, k, v = (torch.randn(2, n, 2, 16, requires_grad=True) for n in (5, 7, 7))
exact = attention(q.double(), k.double(), v.double(), backend="reference")
exact_grad = torch.autograd.grad(exact.square().sum(), q)[0]
close = []
for out in (attention(q, k, v), torch.ops.eokit.attention_forward(q, k, v, None, None, 0.25)[0]):
    grad = torch.autograd.grad(out.square().sum(), q)[0]
    close += [torch.allclose(out.double(), exact, atol=1e-5), torch.allclose(grad, exact_grad, atol=1e-4)]
print(json.dumps([close, [[b.name, b.available, b.reason] for b in backends()]]))
"""

OPCHECK = """
import torch
from eokit.ops import attention
q, k, v = (torch.randn(2, n, 2, 16, requires_grad=True) for n in (5, 7, 7))
torch.library.opcheck(torch.ops.eokit.attention_forward.default, (q, k, v, None, None, 0.25))
print("passed")
"""

# Put before a program: the compiled library is not found, and the report of the build is the one in {report}.
HIDE = """
from pathlib import Path
glob, read = Path.glob, Path.read_text
Path.glob = lambda self, pattern: [] if pattern.startswith("_C") else glob(self, pattern)
Path.read_text = lambda self, *a, **k: read(Path({report!r}) if self.name == "_build_report.json" else self, *a, **k)
"""


def run_python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, timeout=120
    )
    return result.stdout.strip(), result.stderr.strip()


def test_without_the_compiled_library_the_ops_stand_on_the_reference():
    stdout, stderr = run_python(USE, EOKIT_BACKEND="reference")
    assert stdout, stderr
    close, found = json.loads(stdout)
    assert all(close)
    assert ["cpu", False, "not loaded, EOKIT_BACKEND=reference"] in found


@pytest.mark.slow
def test_every_op_passes_its_tests_over_the_reference_too():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).parent),
    ]
    environment = os.environ | {"EOKIT_BACKEND": "reference"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_a_block_can_choose_its_backend():
    q, k, v = (torch.randn(2, 5, 2, 16) for _ in range(3))
    with use_backend("reference"):
        plain = attention(q, k, v)
        with use_backend(None):
            assert library.default_backend() is None
        assert library.default_backend() == "reference"
    assert torch.equal(plain, attention(q, k, v, backend="reference"))
    with (
        pytest.raises(UsageError, match=r"use_backend\('gpu'\): there is no backend 'gpu', expected one of reference"),
        use_backend("gpu"),
    ):
        raise AssertionError
    assert library.default_backend() == (os.environ.get("EOKIT_BACKEND") or None)


@pytest.mark.slow
def test_the_ops_over_the_reference_pass_opcheck():
    stdout, stderr = run_python(OPCHECK, EOKIT_BACKEND="reference")
    assert stdout == "passed", stderr


def test_a_library_that_is_not_there_is_told_with_the_reason_of_the_build(tmp_path):
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"_C": "the build failed: no compiler"}))
    stdout, stderr = run_python(HIDE.format(report=str(report)) + USE, EOKIT_BACKEND="")
    assert stdout, stderr
    close, found = json.loads(stdout)
    assert all(close)
    cpu = next(one for one in found if one[0] == "cpu")
    assert not cpu[1]
    assert cpu[2].endswith("the build failed: no compiler")


def test_a_damaged_library_does_not_break_the_import(tmp_path, monkeypatch):
    (tmp_path / "_C.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(library, "PACKAGE", tmp_path)
    monkeypatch.setattr(library, "_REQUESTED", None)
    loaded, reason = library._load_compiled()
    assert not loaded
    assert "_C.abi3.so does not load" in reason
    assert "\n" not in reason


def test_every_public_op_is_placed():
    public = {name for name in ops.__all__ if callable(getattr(ops, name))}
    assert (
        set(ops.placement())
        == set(ops.placement("cuda"))
        == public - {"Backend", "backends", "placement", "use_backend"}
    )
    with use_backend("reference"):
        assert set(ops.placement().values()) == {"reference"}


def test_kernels_that_no_gpu_has_run_are_not_the_default_on_one():
    if library.INTERPRETED or library.default_backend() is not None:
        pytest.skip("a backend was asked for")
    assert not library.wants_triton()
    assert "triton" not in ops.placement("cuda").values()


def test_the_reference_and_sdpa_are_always_there():
    found = {backend.name: backend for backend in backends()}
    assert list(found) == list(library.NAMES)
    assert found["reference"].available
    assert found["sdpa"].available
    assert found["cpu"].available == library.COMPILED
    assert library.TRITON or not found["triton"].available


def test_an_unknown_backend_in_the_environment_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(library, "_REQUESTED", "gpu")
    with pytest.raises(
        UsageError,
        match="EOKIT_BACKEND=gpu: there is no backend 'gpu', expected one of reference, sdpa, cpu, triton, cuda",
    ):
        library.default_backend()


@pytest.mark.parametrize("name", list(library.SCHEMAS))
def test_python_and_csrc_define_the_same_schemas(name):
    source = re.sub(r'"\s*"', "", (CSRC / "library.cpp").read_text())
    assert f'"{name}{library.SCHEMAS[name]}"' in source
    assert hasattr(torch.ops.eokit, name)


def test_the_kernels_use_nothing_of_torch_but_its_stable_headers():
    includes = {line for path in CSRC.rglob("*.[ch]*") for line in path.read_text().splitlines() if "include <" in line}
    of_torch = [line for line in includes if re.search(r"<(torch|ATen|c10)/", line)]
    assert of_torch
    assert all("<torch/csrc/stable/" in line or "<torch/headeronly/" in line for line in of_torch), of_torch


@pytest.mark.skipif(not library.COMPILED, reason="not built")
def test_native_tells_how_it_was_built():
    from eokit import _native

    assert set(_native.build_info()) == {"compiler", "flags", "torch_target"}
    assert _native.instruction_sets()[0] == "portable"


def test_an_instruction_set_that_is_not_there_is_told():
    stdout, stderr = run_python("import eokit.ops as o; print(o.backends()[2].reason)", EOKIT_INSTRUCTION_SET="mmx")
    assert "no EOKIT_INSTRUCTION_SET=mmx" in stdout or not library.COMPILED, stderr

"""What asking for the CUDA kernels does: errors where they are missing, and the way to them where they are there.

Their ops are registered for a CPU here, with the plain implementations behind them; nothing of csrc/cuda runs.
"""

import json

import pytest
import torch

from eokit.errors import ArgumentError, SetupError
from eokit.ops import attention, backends, gather_tokens, library, placement, scatter_tokens, use_backend
from eokit.ops.attention import autograd as attention_ops
from eokit.ops.tokens import autograd as token_ops
from eokit.ops.tokens import reference as tokens
from tests.ops.cases import assert_as_exact_as_torch, make_case

missing = pytest.mark.skipif(library.CUDA, reason="the CUDA library is there")
X = torch.zeros(5, 2, 8, dtype=torch.bfloat16)


@pytest.fixture
def stand_in(monkeypatch):
    """eokit_cuda on a CPU, and the names of its ops that were called."""
    called: list[str] = []
    plain = {
        "attention_forward": attention_ops._reference_forward,
        "attention_backward": attention_ops._reference_backward,
        "invert_index": tokens.invert_index,
        "map_rows": token_ops._map_rows,
        "sum_unmapped": tokens.sum_unmapped,
    }
    assert set(plain) == set(library.CUDA_OPS)
    registered = torch.library.Library("eokit_cuda", "IMPL")
    for name, run in plain.items():
        registered.impl(name, lambda *x, name=name, run=run: called.append(name) or run(*x), "CPU")
    monkeypatch.setattr(library, "CUDA", True)
    monkeypatch.setattr(library, "takes_cuda", lambda x: x.dtype in library.COMPILED_DTYPES)
    yield called
    registered._destroy()


@missing
def test_without_the_library_every_way_to_ask_for_it_says_what_is_missing(monkeypatch):
    with pytest.raises(SetupError, match='backend="cuda" needs the CUDA kernels, which are missing'):
        attention(X, X, X, backend="cuda")
    with pytest.raises(SetupError, match=r"use_backend\('cuda'\) needs the CUDA kernels"), use_backend("cuda"):
        raise AssertionError
    monkeypatch.setattr(library, "_REQUESTED", "cuda")
    with pytest.raises(SetupError, match="EOKIT_BACKEND=cuda needs the CUDA kernels"):
        attention(X, X, X)
    with pytest.raises(SetupError, match="EOKIT_BACKEND=cuda needs the CUDA kernels"):
        gather_tokens(X, torch.zeros(5, 1, dtype=torch.long))


@pytest.mark.parametrize("x", [X, X.float(), torch.zeros(5, 2, 136)], ids=["on a CPU", "float32", "too wide"])
def test_what_the_kernels_do_not_take_is_refused_when_they_are_named(monkeypatch, x):
    monkeypatch.setattr(library, "CUDA", True)
    with pytest.raises(ArgumentError, match='backend="cuda" takes bfloat16 or float16 on a CUDA device'):
        attention(x, x, x, backend="cuda")


@missing
def test_a_build_without_them_is_told_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "_build_report.json").write_text(json.dumps({"_C_cuda": "left out, EOKIT_WITH_CUDA=0"}))
    monkeypatch.setattr(library, "BUILD_REPORT", tmp_path / "_build_report.json")
    monkeypatch.setattr(library, "PACKAGE", tmp_path)
    there, reason = library._load_cuda()
    assert not there
    assert reason.endswith("left out, EOKIT_WITH_CUDA=0")
    assert backends()[-1].name == "cuda"
    assert not backends()[-1].available


def test_a_library_that_does_not_load_does_not_break_the_import(tmp_path, monkeypatch):
    (tmp_path / "_C_cuda.abi3.so").write_bytes(b"not a library")
    monkeypatch.setattr(library, "PACKAGE", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert library._load_cuda() == (False, "_C_cuda.abi3.so is there, but this torch has no CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    there, reason = library._load_cuda()
    assert not there
    assert "_C_cuda.abi3.so does not load" in reason
    assert "\n" not in reason


@pytest.mark.parametrize("dtype", attention_ops.HALF, ids=str)
def test_attention_and_its_gradient_go_to_the_kernels(stand_in, dtype):
    assert_as_exact_as_torch(make_case(9, 17, 16, "scattered", bias=True), "cuda", dtype)
    assert stand_in == ["attention_forward", "attention_backward"]


def test_a_gradient_is_made_where_its_result_was(stand_in):
    q, k, v = (torch.randn(2, 5, 2, 8).bfloat16().requires_grad_() for _ in range(3))
    with use_backend("cuda"):
        out = attention(q, k, v)
    out.sum().backward()
    assert stand_in == ["attention_forward", "attention_backward"]


def test_float32_attention_goes_elsewhere_unless_the_kernels_are_named(stand_in):
    x = torch.randn(2, 5, 2, 8)
    with use_backend("cuda"):
        attention(x, x, x)
    assert stand_in == []


def test_more_queries_than_fit_into_shared_memory_go_elsewhere_unless_the_kernels_are_named(stand_in):
    q, k = (torch.randn(length, 1, 8).bfloat16() for length in (attention_ops.MOST_QUERIES + 1, 2))
    with pytest.raises(ArgumentError, match=r"at most 4,096 queries, found .* and 4,097 queries; leave backend out"):
        attention(q, k, k, backend="cuda")
    with use_backend("cuda"):
        attention(q, k, k)
        assert stand_in == []
        attention(q[1:], k, k)
    assert stand_in == ["attention_forward"]


def test_tokens_go_to_the_kernels_and_back(stand_in):
    x, visible, mask_token = (torch.randn(*shape, requires_grad=True) for shape in ((2, 9, 8), (2, 3, 8), (8,)))
    index, leaves = torch.tensor([[1, 4, 2], [0, 8, 7]]), (x, visible, mask_token)
    results = []
    for name in ("reference", "cuda"):
        with use_backend(name):
            gathered, scattered = gather_tokens(x, index), scatter_tokens(visible, index, 9, mask_token)
            loss = gathered.square().sum() + scattered.square().sum()
            results.append((gathered, scattered, *torch.autograd.grad(loss, leaves)))
    assert set(stand_in) >= {"map_rows", "sum_unmapped"}
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact)


def test_the_ops_pass_opcheck(stand_in):
    q, k, v = (torch.randn(2, 2, n, 2, 8, requires_grad=True) for n in (5, 7, 7))
    bias_t = torch.randn(2, 1, 2, 7, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.eokit_cuda.attention_forward.default, (q, k, v, None, bias_t, 0.25))
    index = torch.tensor([[1, 4, 2], [0, 8, 7]])
    back = torch.ops.eokit_cuda.invert_index(index, 9)
    rows = torch.randn(2, 9, 8, requires_grad=True)
    torch.library.opcheck(torch.ops.eokit_cuda.map_rows.default, (rows, index, back, None, None, False))


def test_placement_names_the_kernels_where_they_were_asked_for(stand_in):
    assert "cuda" not in placement("cuda").values()
    with use_backend("cuda"):
        there = placement("cuda")
        assert placement("cpu")["attention"] == "sdpa"
    assert {op for op, where in there.items() if where == "cuda"} == {"attention", "gather_tokens", "scatter_tokens"}
    assert there["row_mlp"] == "reference"

"""The measured table of backends: which row covers a call, and what runs where none does. All rows here are made up."""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from eokit import ops
from eokit.ops import attention, library
from eokit.ops.attention import _choose, sdpa, table
from eokit.ops.attention.table import Row, axis_of, fastest

MADE_UP = {
    "GPU": (
        Row("temporal", 1, 64, "bfloat16", "nothing", False, "triton"),
        Row("temporal", 128, 64, "bfloat16", "nothing", False, "sdpa"),
        Row("temporal", 1, 128, "bfloat16", "nothing", False, "cuda"),
        Row("temporal", 1, 128, "bfloat16", "nothing", True, "sdpa"),
        Row("temporal", 1, 128, "bfloat16", "bias", False, "triton"),
        Row("spatial", 1, 128, "bfloat16", "mask", False, "cuda"),
    )
}


def temporal(length, dim, dtype=torch.bfloat16):
    """(B, N, T, H, D) of (B, T, N, H, D)."""
    return torch.zeros(2, length, 3, 4, dim, dtype=dtype).transpose(1, 2)


@pytest.mark.parametrize(
    ("length", "dim", "backend"),
    [(1, 64, "triton"), (127, 32, "triton"), (128, 64, "sdpa"), (400, 8, "sdpa"), (17, 65, "cuda"), (17, 129, None)],
)
def test_the_row_of_the_narrowest_heads_and_the_last_length_that_was_reached_counts(length, dim, backend):
    x = temporal(length, dim)
    assert fastest(x, x, "nothing", False, table=MADE_UP, device="GPU") == backend


@pytest.mark.parametrize("change", [{"added": "mask"}, {"device": "another GPU"}, {"table": {}}])
def test_what_was_not_measured_has_no_row(change):
    x = temporal(17, 64)
    given = {"added": "nothing", "gradients": False, "table": MADE_UP, "device": "GPU"}
    assert fastest(x, x, **(given | change)) is None


def test_a_bias_and_a_gradient_have_rows_of_their_own():
    x = temporal(17, 64)
    assert fastest(x, x, "bias", False, table=MADE_UP, device="GPU") == "triton"
    assert fastest(x, x, "nothing", True, table=MADE_UP, device="GPU") == "sdpa"


def test_another_dtype_and_another_axis_have_rows_of_their_own():
    x, along = temporal(17, 64, torch.float16), torch.zeros(2, 5, 17, 4, 64, dtype=torch.bfloat16)
    assert fastest(x, x, "nothing", False, table=MADE_UP, device="GPU") is None
    assert fastest(along, along, "mask", False, table=MADE_UP, device="GPU") == "cuda"


def test_the_axis_is_read_off_the_strides():
    fused = torch.zeros(2, 5, 3, 3, 4, 8)  # (B, T, N, 3, H, D)
    assert {axis_of(x.transpose(1, 2)) for x in fused.unbind(-3)} == {"temporal"}
    assert {axis_of(x) for x in fused.unbind(-3)} == {"spatial"}
    assert axis_of(torch.zeros(5, 4, 8)) == "spatial"


def test_every_row_that_is_shipped_names_a_backend_once():
    for name, rows in table.MEASURED.items():
        assert {row.backend for row in rows} <= set(table.BACKENDS), name
        assert {row.added for row in rows} <= set(table.ADDED), name
        assert len({row[:-1] for row in rows}) == len(rows), name


def test_on_a_cpu_the_table_has_no_word(monkeypatch):
    monkeypatch.setattr(table, "fastest", lambda *x, **more: pytest.fail("it was asked"))
    x = torch.zeros(2, 5, 2, 8)
    attention(x, x, x)
    assert ops.placement("cpu")


@pytest.mark.skipif(library.default_backend() is not None or library.INTERPRETED, reason="a backend was asked for")
@pytest.mark.parametrize(
    ("length", "there", "backend"), [(17, True, "triton"), (17, False, "sdpa"), (200, True, "sdpa")]
)
def test_on_a_gpu_its_row_is_taken_if_that_backend_is_there(monkeypatch, length, there, backend):
    """A tensor that says it is on a GPU is enough to choose by."""
    monkeypatch.setattr(library, "TRITON", there)
    with FakeTensorMode():
        x = torch.empty(2, length, 3, 4, 64, dtype=torch.bfloat16, device="cuda").transpose(1, 2)
        assert _choose(None, x, x, "nothing", False) == "sdpa"
        monkeypatch.setattr(table, "fastest", partial(fastest, table=MADE_UP, device="GPU"))
        assert _choose(None, x, x, "nothing", False) == backend


@pytest.mark.skipif(library.default_backend() is not None or library.INTERPRETED, reason="a backend was asked for")
@pytest.mark.parametrize("trained", ["q", "k", "v", "bias", None])
def test_whichever_is_trained_the_rows_with_the_backward_pass_count(monkeypatch, trained):
    asked = []
    monkeypatch.setattr(table, "fastest", lambda q, k, added, gradients: asked.append(gradients))
    monkeypatch.setattr(sdpa, "attention", lambda q, k, v, **more: q)  # there is no GPU to run it
    with FakeTensorMode():
        shapes = dict.fromkeys("qkv", (2, 5, 2, 8)) | {"bias": (2, 5, 5)}
        given = {name: torch.empty(shape, device="cuda") for name, shape in shapes.items()}
        if trained is not None:
            given[trained].requires_grad_()
        attention(**given)
        with torch.no_grad():
            attention(**given)
    assert asked == [trained is not None, False]

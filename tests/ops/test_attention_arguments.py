"""Every wrong argument of ops.attention is one line that names it, its value and what was expected."""

import pytest
import torch

from eokit.errors import ArgumentError, SetupError
from eokit.ops import attention, library

Q = torch.zeros(2, 3, 5, 2, 8)
K = torch.zeros(2, 3, 7, 2, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"q": Q[0, 0, 0]}, ["q has shape (2, 8)", "(..., Lq, H, D)"]),
        ({"q": Q.expand(*(1,) * 15, *Q.shape)}, ["q has shape (1, 1", "at most 16 dimensions before Lq"]),
        ({"q": None}, ["q is of type NoneType", "tensor"]),
        ({"q": Q.int()}, ["q is torch.int32", "floating"]),
        ({"k": K[:1]}, ["k has shape (1, 3, 7, 2, 8)", "(2, 3, Lk, 2, 8)"]),
        ({"k": K[..., :4]}, ["k has shape (2, 3, 7, 2, 4)", "(2, 3, Lk, 2, 8)"]),
        ({"k": K[0]}, ["k has shape (3, 7, 2, 8)"]),
        ({"v": K[:, :, :6]}, ["v has shape (2, 3, 6, 2, 8)", "shape of k, (2, 3, 7, 2, 8)"]),
        ({"v": K.double()}, ["v is torch.float64", "torch.float32"]),
        ({"k": K.to("meta")}, ["k is on meta", "cpu"]),
        ({"key_mask": torch.ones(2, 3, 7)}, ["key_mask is torch.float32", "torch.bool"]),
        ({"key_mask": torch.ones(2, 7, dtype=torch.bool)}, ["key_mask has shape (2, 7)", "(2, 3, 7)"]),
        ({"key_mask": torch.ones(2, 3, 1, dtype=torch.bool)}, ["key_mask has shape (2, 3, 1)", "(2, 3, 7)"]),
        ({"bias": torch.zeros(5, 5)}, ["bias has shape (5, 5)", "(2, 3, 2, 5, 7)"]),
        ({"bias": torch.zeros(5, 7).int()}, ["bias is torch.int32", "floating"]),
        ({"q": Q.to(torch.float8_e4m3fn)}, ["q is torch.float8_e4m3fn", "16 bits"]),
        ({"key_mask": [True] * 7}, ["key_mask is of type list", "tensor"]),
        ({"scale": "1"}, ["scale is of type str", "number"]),
        ({"scale": float("nan")}, ["scale is nan", "finite"]),
        ({"scale": 1e39}, ["scale is 1e+39", "float32"]),
        ({"backend": "gpu"}, ["backend is 'gpu'", "reference, sdpa, cpu, triton, cuda"]),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else None,
)
def test_a_wrong_argument_is_named_with_its_value_and_what_was_expected(change, words):
    arguments = {"q": Q, "k": K, "v": K} | change
    with pytest.raises(ArgumentError) as caught:
        attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_shapes_can_be_tried_on_meta_tensors():
    assert attention(Q.to("meta"), K.to("meta"), K.to("meta")).shape == Q.shape


@pytest.mark.skipif(not library.COMPILED, reason="not built")
def test_the_cpu_backend_refuses_what_it_does_not_cover():
    x = torch.zeros(5, 2, 8, dtype=torch.float64)
    with pytest.raises(ArgumentError, match='backend="cpu" takes float32'):
        attention(x, x, x, backend="cpu")


def test_the_cpu_backend_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(library, "COMPILED", False)
    monkeypatch.setattr(library, "_CPU_REASON", "it was never built")
    with pytest.raises(SetupError, match="it was never built"):
        attention(Q, K, K, backend="cpu")

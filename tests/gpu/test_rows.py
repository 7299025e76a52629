"""Tokens, pooling, the row MLP and the losses on a GPU: as exact as plain torch in the same dtype."""

import pytest
import torch

from eokit.ops import gather_tokens, row_mlp, use_backend
from tests.gpu.support import every_row_kernel, every_token_kernel, named, skip_if_long, skip_without
from tests.ops import row_cases
from tests.ops.row_cases import assert_as_exact_as


def assert_follows_the_law(run, backend, dtype):
    """run(backend, dtype) -> results; float64 of the reference, and the reference in the dtype, are the measures."""
    assert_as_exact_as(run(backend, dtype), run("reference", dtype), run("reference", torch.float64))


@every_token_kernel
@pytest.mark.parametrize("own", [None, False, True])
@pytest.mark.parametrize("size", [(3, 19, 7, 44), (1, 1, 1, 8), (2, 257, 64, 384), (4, 144, 36, 97)])
def test_tokens_go_there_and_back(backend, dtype, own, size, poisoned):
    skip_if_long(size[0] * size[1] * size[3])
    torch.manual_seed(0)
    leaves, index = row_cases.make_tokens(*size, own)
    leaves = [one.to(dtype) for one in leaves]
    assert_follows_the_law(lambda *how: row_cases.run_tokens(*how, leaves, index), backend, dtype)


@every_row_kernel
@pytest.mark.parametrize(
    "shape", [(2, 3, 19, 4, 6), (1, 2, 16, 16, 16), (2, 2, 3, 1, 5), (1, 300, 61, 16, 16)], ids=str
)
def test_pooling(backend, dtype, shape, poisoned):
    samples, pixels, dates, heads, values = shape
    skip_if_long(pixels * dates * heads * values)
    torch.manual_seed(0)
    *case, mask = row_cases.make_series(*shape, mask="pixels")
    case = (*(one.to(dtype).double() for one in case), mask)
    grad = torch.randn(samples, pixels, heads * values).to(dtype).double()
    assert_follows_the_law(lambda *how: row_cases.run_pool(*how, case, grad), backend, dtype)


@pytest.mark.parametrize("backend", [named("triton"), named("reference")])
@pytest.mark.parametrize("widths", [(10, 96, 384), (12, 100, 16), (10, 96, 384, 768, 1536, 768)], ids=str)
def test_the_row_mlp(backend, widths):
    skip_if_long(67 * widths[0] * widths[1] * 10)
    torch.manual_seed(0)
    x, layers = row_cases.make_rows(67, widths)
    for layer in layers:
        layer[3] = (
            8 * layer[3].sign()
        )  # on or off in every row: near zero the derivative of ReLU is a matter of rounding
    grad = torch.randn(67, widths[-1]).double()
    assert_follows_the_law(lambda *how: row_cases.run_mlp(*how, (x, layers), 4, grad), backend, torch.float32)


@every_row_kernel
@pytest.mark.parametrize(("inputs", "features"), [(10, 96), (96, 384), (384, 768), (768, 1536)])
def test_a_layer_of_the_row_mlp(backend, dtype, inputs, features, poisoned):
    """In half precision one kernel up to groups of 256 features, in four groups."""
    skip_if_long(137 * inputs * features)
    torch.manual_seed(0)
    x, layers = row_cases.make_rows(137, (inputs, features))
    case = x.to(dtype).double(), [[one.to(dtype).double() for one in layers[0]]]

    def run(name, wide):
        with use_backend(name):
            return [row_mlp(case[0].to(wide), [[one.to(wide) for one in case[1][0]]])]

    assert_follows_the_law(run, backend, dtype)


@pytest.mark.parametrize("backend", [named("triton"), named("cuda")])
def test_tokens_of_more_than_two_to_the_31_elements(backend):
    shape, index = (65_600, 64, 520), torch.tensor([[63, 0, 5]])
    assert torch.Size(shape).numel() > 2**31
    skip_without(2 * torch.Size(shape).numel() + 2**30)
    x = torch.randn(shape, dtype=torch.bfloat16)
    with use_backend(backend):
        out = gather_tokens(x, index.expand(shape[0], -1))
    assert torch.equal(out[-1], x[-1, index[0]])

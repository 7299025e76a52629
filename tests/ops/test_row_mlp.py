"""The row MLP follows its formula in value and gradient, however many blocks, and its fused norm is exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.errors import ArgumentError
from eokit.ops import row_mlp
from eokit.ops.row_mlp import blocked, reference
from tests.ops.conftest import compiled
from tests.ops.row_cases import make_rows as make
from tests.ops.row_cases import run_mlp as run


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocked, "ROWS", 5)


@compiled
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 13), st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(1, 4), st.integers(0, 99))
def test_it_follows_the_formula(rows, widths, groups, seed):
    torch.manual_seed(seed)
    widths = [widths[0], *(4 * groups * width for width in widths[1:])]  # groups of one number have no variance
    case, grad = make(rows, widths), torch.randn(rows, widths[-1]).double()
    exact = run("reference", torch.float64, case, groups, grad)
    for ours, truth in zip(run(None, torch.float32, case, groups, grad), exact, strict=True):
        scale = truth.abs().max().clamp(min=1)
        torch.testing.assert_close(ours.double() / scale, truth / scale, rtol=1e-3, atol=1e-3)


@compiled
@pytest.mark.parametrize("name", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [96, 100, 768])
def test_the_fused_norm_of_every_instruction_set_is_as_exact_as_torch(instruction_set_or_skip, name, dtype, width):
    instruction_set_or_skip(name)
    torch.manual_seed(0)
    z, grad = torch.randn(7, width).to(dtype) + 3, torch.randn(7, width).to(dtype)
    weight, bias = torch.randn(2, width)

    def results(convert):
        leaves = [convert(one).requires_grad_() for one in (z, weight, bias)]
        out = reference.norm_relu(*leaves, 4, 1e-5)
        return out.detach(), *torch.autograd.grad(out, leaves, convert(grad))

    exact, theirs = results(torch.Tensor.double), results(lambda one: one)
    ours = (
        torch.ops.eokit.norm_relu(z, weight, bias, 4, 1e-5),
        *torch.ops.eokit.norm_relu_backward(grad, z, weight, bias, 4, 1e-5),
    )
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        eps = torch.finfo(torch.float32 if a.dtype == torch.float32 else dtype).eps
        assert (a - truth).abs().max() <= 2 * (b - truth).abs().max() + 4 * eps * truth.abs().max()


@compiled
def test_a_nan_goes_through():
    z = torch.tensor([[1.0, float("nan"), 3.0, 4.0]])
    assert torch.ops.eokit.norm_relu(z, torch.ones(4), torch.zeros(4), 1, 1e-5).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_is_as_exact_as_torch(dtype):
    torch.manual_seed(0)
    case, grad = make(11, [10, 32, 64]), torch.randn(11, 64).double()
    case = case[0].to(dtype).double(), [[one.to(dtype).double() for one in layer] for layer in case[1]]
    exact = run("reference", torch.float64, case, 4, grad)
    for ours, theirs, truth in zip(
        run(None, dtype, case, 4, grad), run("reference", dtype, case, 4, grad), exact, strict=True
    ):
        assert ours.dtype == dtype
        assert (ours - truth).norm() <= 2 * (theirs - truth).norm() + torch.finfo(dtype).eps * truth.norm()


@compiled
def test_any_number_of_threads_gives_the_same_bits():
    """Of the fused norm; the products are torch's."""
    z, grad, weight, bias = torch.randn(400, 64), torch.randn(400, 64), torch.randn(64), torch.randn(64)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(torch.ops.eokit.norm_relu_backward(grad, z, weight, bias, 4, 1e-5))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_an_empty_input_gives_an_empty_output():
    x, layers = make(0, [4, 8], torch.float32)
    x.requires_grad_()
    out = row_mlp(x, layers)
    assert out.shape == (0, 8)
    assert torch.autograd.grad(out.sum(), x)[0].shape == (0, 4)


@compiled
def test_the_ops_pass_opcheck():
    x, layers = make(7, [4, 8, 16], torch.float32)
    kinds = [[layer[i].requires_grad_() for layer in layers] for i in range(4)]
    torch.library.opcheck(blocked.row_mlp_forward, (x.requires_grad_(), *kinds, 4, 1e-5))
    z, weight, bias = torch.randn(3, 8), torch.randn(8), torch.randn(8)
    torch.library.opcheck(torch.ops.eokit.norm_relu.default, (z, weight, bias, 4, 1e-5))
    torch.library.opcheck(torch.ops.eokit.norm_relu_.default, (z, weight, bias, 4, 1e-5))
    torch.library.opcheck(torch.ops.eokit.norm_relu_backward.default, (z, z, weight, bias, 4, 1e-5))


def test_the_reference_passes_gradcheck():
    x, layers = make(3, [3, 8, 4])
    flat = [one.requires_grad_() for layer in layers for one in layer]
    function = lambda x, *flat: row_mlp(x, [flat[:4], flat[4:]], groups=2)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *flat))


X, LAYER = torch.zeros(3, 4), [torch.zeros(8, 4), *torch.zeros(3, 8)]


@pytest.mark.parametrize(
    ("run_it", "words"),
    [
        (lambda: row_mlp(X[0], [LAYER]), ["x is torch.float32 (4,)", "(R, C)"]),
        (lambda: row_mlp(X, []), ["layers is empty"]),
        (lambda: row_mlp(X, [LAYER[:3]]), ["layers[0] has 3 tensors"]),
        (lambda: row_mlp(X[:, :3], [LAYER]), ["the weight of layers[0] has shape (8, 4)", "(C', 3)"]),
        (lambda: row_mlp(X, [LAYER, LAYER]), ["the weight of layers[1]", "(C', 8)"]),
        (lambda: row_mlp(X, [LAYER], groups=3), ["groups is 3", "divisor of the 8"]),
        (lambda: row_mlp(X, [[*LAYER[:3], torch.zeros(7)]]), ["the shift of layers[0] has shape (7,)", "(8,)"]),
        (lambda: row_mlp(X, [[LAYER[0].to("meta"), *LAYER[1:]]]), ["the weight of layers[0]", "meta", "cpu"]),
        (lambda: row_mlp(X, [[LAYER[0], None, *LAYER[2:]]]), ["the bias of layers[0] is of type NoneType", "tensor"]),
        (lambda: row_mlp(X, X), ["layers is of type Tensor", "(weight, bias, gain, shift)"]),
        (lambda: row_mlp(X, [X]), ["layers[0] is of type Tensor", "(weight, bias, gain, shift)"]),
        (lambda: row_mlp(X, [LAYER], groups=2.0), ["groups is 2.0", "whole number"]),
        (lambda: row_mlp(X, [LAYER], groups=0), ["groups is 0", "1 or more"]),
        (lambda: row_mlp(X, [LAYER], epsilon=0.0), ["epsilon is 0.0", "above 0"]),
    ],
)
def test_a_wrong_argument_is_named(run_it, words):
    with pytest.raises(ArgumentError) as caught:
        run_it()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)

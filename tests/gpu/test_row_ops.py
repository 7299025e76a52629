"""Tokens, pooling and the row MLP on a GPU beyond their formulas: one graph, any strides, no rows, very many rows."""

import pytest
import torch

from eokit.ops import gather_tokens, row_mlp, scatter_tokens, temporal_pool, use_backend
from eokit.ops.row_mlp import reference as rows_reference
from tests.gpu.support import captured, every_row_kernel, every_token_kernel, named, skip_without
from tests.ops import row_cases

KERNELS = [
    pytest.param(torch.ops.eokit, id="eokit"),
    pytest.param(torch.ops.eokit_cuda, id="eokit_cuda", marks=named("cuda").marks),
]
INDEX = [[4, 0, 2], [1, 3, 0]]
CHECKS = {"rtol": 0.02, "atol": 0.02}
"""opcheck compares with itself: what is granted are sums of half precision in another order."""


def tokens():
    """The op on its leaves, with what has no gradient made once, on the device of the test; so are the two below."""
    index = torch.tensor(INDEX)
    return lambda x, visible, mask_token, pos: (
        gather_tokens(x, index, pos),
        scatter_tokens(visible, index, 5, mask_token, pos),
    )


def pool():
    positions, mask = torch.ones(2, 4, 4), torch.arange(4) > torch.arange(2)[:, None, None]
    return lambda x, queries: (temporal_pool(x, queries, positions, key_mask=mask),)


def mlp():
    return lambda x, *layer: (row_mlp(x, [layer], groups=2),)


TOKENS = {"x": (2, 5, 8), "visible": (2, 3, 8), "mask_token": (8,), "pos": (5, 8)}
POOL = {"x": (2, 3, 4, 8), "queries": (2, 8)}
MLP = {"x": (7, 16), "weight": (32, 16), "bias": (32,), "gain": (32,), "shift": (32,)}
ROW_OPS = pytest.mark.parametrize(("make", "shapes"), [(pool, POOL), (mlp, MLP)], ids=["pool", "mlp"])


def leaves_of(shapes, dtype):
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes.values()]


def results(op, leaves):
    """The outputs of an op and the gradients of the sum of their squares."""
    outs = op(*leaves)
    loss = sum(out.float().square().sum() for out in outs)
    return [*outs, *torch.autograd.grad(loss, leaves)]


def assert_same(ours, theirs, dtype):
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        limit = 32 * torch.finfo(dtype).eps * max(1.0, b.abs().max().item() if b.numel() else 0)
        torch.testing.assert_close(a, b, rtol=0, atol=limit, msg=f"result {number}")


def assert_compiles_to_one_graph(make, shapes, backend, dtype=torch.bfloat16):
    """In one dtype: every graph takes seconds, and which kernels there are is a matter of the other tests."""
    op, given = make(), [leaves_of(shapes, dtype) for _ in range(2)]
    torch.set_default_device(None)  # a mode of torch that Dynamo does not trace through
    torch.compiler.reset()
    with use_backend(backend):
        assert_same(results(torch.compile(op, fullgraph=True), given[0]), results(op, given[1]), dtype)


@pytest.mark.parametrize("backend", [named("triton"), named("cuda"), named("reference")])
def test_tokens_compile_as_one_graph(backend):
    assert_compiles_to_one_graph(tokens, TOKENS, backend)


@pytest.mark.parametrize("backend", [named("triton"), named("reference")])
@ROW_OPS
def test_pooling_and_the_row_mlp_compile_as_one_graph(backend, make, shapes):
    assert_compiles_to_one_graph(make, shapes, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernels", KERNELS)
def test_the_ops_of_tokens_pass_opcheck(kernels, dtype):
    index = torch.tensor(INDEX)
    torch.library.opcheck(kernels.invert_index.default, (index, 5))
    rows, fill, pos = (torch.randn(shape).to(dtype).requires_grad_() for shape in ((2, 3, 8), (8,), (5, 8)))
    inverse = kernels.invert_index(index, 5)
    torch.library.opcheck(kernels.map_rows.default, (rows, inverse, index, fill, pos, True), **CHECKS)
    wide = torch.randn(2, 5, 8).to(dtype).requires_grad_()
    torch.library.opcheck(kernels.sum_unmapped.default, (wide, inverse), **CHECKS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_ops_of_pooling_and_rows_pass_opcheck(dtype):
    x, queries = torch.randn(6, 4, 8).to(dtype).requires_grad_(), torch.randn(2, 8, requires_grad=True)
    given = (x, queries, torch.randn(2, 4, 2), torch.randn(2, 4, 4), None)
    torch.library.opcheck(torch.ops.eokit.pool_forward.default, given, **CHECKS)
    z, weight, bias = torch.randn(7, 32).to(dtype), torch.randn(32), torch.randn(32)
    torch.library.opcheck(torch.ops.eokit.norm_relu.default, (z, weight, bias, 4, 1e-5), **CHECKS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_backward_of_rows_passes_opcheck(dtype):
    """Its three gradients are memory of their own, as the schema says."""
    z, weight, bias = torch.randn(7, 32).to(dtype), torch.randn(32), torch.randn(32)
    torch.library.opcheck(torch.ops.eokit.norm_relu_backward.default, (z, z, weight, bias, 4, 1e-5), **CHECKS)


def widened(x):
    """The values of x (..., D) among others that are NaN: rows further apart, each beginning after one element."""
    room = torch.full((*x.shape[:-1], x.shape[-1] + 3), float("nan"), dtype=x.dtype)
    room[..., 1:-2] = x.detach()
    return room[..., 1:-2].requires_grad_()


def turned(x):
    """The values of x (B, L, D) with its first two dimensions the other way round in memory."""
    return x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()


@every_token_kernel
@pytest.mark.parametrize("lay", [widened, turned])
def test_tokens_in_any_rows_of_memory_give_the_same_bits(backend, dtype, lay, poisoned):
    leaves, op = leaves_of(TOKENS, dtype), tokens()
    with use_backend(backend):
        exact, others = results(op, leaves), results(op, [lay(x) if x.dim() == 3 else x for x in leaves])
    assert all(torch.equal(a, b) for a, b in zip(others, exact, strict=True))


@every_row_kernel
@ROW_OPS
def test_pooling_and_the_row_mlp_in_any_rows_of_memory(backend, dtype, make, shapes, poisoned):
    (x, *others), op = leaves_of(shapes, dtype), make()
    with use_backend(backend):
        assert_same(results(op, [widened(x), *others]), results(op, [x, *others]), dtype)


@every_token_kernel
@pytest.mark.parametrize("size", [(0, 5, 3), (2, 5, 0), (2, 0, 0)], ids=["no samples", "none visible", "no tokens"])
def test_no_tokens_give_results_and_gradients_of_their_shape(backend, dtype, size, poisoned):
    leaves, index = row_cases.make_tokens(*size, 8, False)
    gathered, scattered, *grads = row_cases.run_tokens(backend, dtype, leaves, index)
    assert (gathered.shape, scattered.shape) == ((size[0], size[2], 8), (*size[:2], 8))
    for x, grad in zip(leaves, grads, strict=True):
        assert grad.shape == x.shape
        assert grad.isfinite().all()


@every_row_kernel
@pytest.mark.parametrize("shape", [(2, 0, 4, 8), (2, 3, 0, 8)], ids=["no pixels", "no dates"])
def test_no_series_give_results_and_gradients_of_their_shape(backend, dtype, shape, poisoned):
    x, queries = leaves_of({"x": shape, "queries": (2, 8)}, dtype)
    with use_backend(backend):
        found = results(lambda *given: (temporal_pool(*given, torch.ones(2, shape[2], 4)),), [x, queries])
    assert [tuple(one.shape) for one in found] == [(2, shape[1], 8), shape, (2, 8)]
    assert all(one.isfinite().all() for one in found)


@every_row_kernel
def test_no_rows_give_results_and_gradients_of_their_shape(backend, dtype, poisoned):
    shapes = MLP | {"x": (0, 16)}
    with use_backend(backend):
        found = results(mlp(), leaves_of(shapes, dtype))
    assert [tuple(one.shape) for one in found] == [(0, 32), *shapes.values()]
    assert all(one.isfinite().all() for one in found)


@every_token_kernel
def test_tokens_of_a_captured_graph_are_those_of_new_values(backend, dtype):
    leaves, op = leaves_of(TOKENS, dtype), tokens()
    with use_backend(backend):
        found, replay = captured(lambda: results(op, leaves))
        with torch.no_grad():
            for x in leaves:
                x.copy_(torch.randn(x.shape))
        replay()
        assert_same(found, results(op, leaves), dtype)


@pytest.mark.parametrize("backend", [named("triton"), named("cuda")])
def test_scattered_tokens_of_more_than_two_to_the_31_elements(backend):
    """Forward and backward; the gradient of the mask token counts the rows that it fills."""
    batch, length, dim, kept = 65_600, 64, 520, 3
    assert batch * length * dim > 2**31
    skip_without(4 * 2 * batch * length * dim)
    visible = torch.randn(batch, kept, dim, dtype=torch.bfloat16, requires_grad=True)
    mask_token = torch.randn(dim, requires_grad=True)
    index = torch.tensor([[63, 0, 5]]).expand(batch, -1)
    with use_backend(backend):
        out = scatter_tokens(visible, index, length, mask_token)
        assert torch.equal(out[-1, index[0]], visible[-1])
        assert torch.equal(out[-1, 62], mask_token.bfloat16())
        to_visible, to_token = torch.autograd.grad(out, (visible, mask_token), torch.ones_like(out))
    assert (to_visible == 1).all()
    torch.testing.assert_close(to_token, torch.full((dim,), float(batch * (length - kept))), rtol=0.01, atol=0)


@pytest.mark.parametrize("backend", [named("triton")])
def test_series_of_more_than_two_to_the_31_elements(backend):
    pixels, dates, dim, heads = 262_400, 64, 128, 16
    assert pixels * dates * dim > 2**31
    skip_without(4 * 2 * pixels * dates * dim)
    x = torch.randn(1, pixels, dates, dim, dtype=torch.bfloat16, requires_grad=True)
    queries, positions = torch.randn(heads, dim) / dim**0.5, torch.randn(1, dates, dim // heads)
    with use_backend(backend):
        out = temporal_pool(x, queries, positions)
        (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
    last = x.detach()[:, -2:].double().requires_grad_()
    with use_backend("reference"):
        exact = temporal_pool(last, queries.double(), positions.double())
    torch.testing.assert_close(out[:, -2:].double(), exact, rtol=0.02, atol=0.02)
    (exact,) = torch.autograd.grad(exact, last, torch.ones_like(exact))
    torch.testing.assert_close(grad[:, -2:].double(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("backend", [named("triton")])
def test_rows_of_more_than_two_to_the_31_elements(backend):
    rows, dim = 22_400_000, 96
    assert rows * dim > 2**31
    skip_without(4 * 2 * rows * dim)
    z, weight, bias = torch.randn(rows, dim, dtype=torch.bfloat16), torch.randn(dim), torch.randn(dim)
    with use_backend(backend):
        out = torch.ops.eokit.norm_relu(z, weight, bias, 4, 1e-5)
    exact = rows_reference.norm_relu(z[-9:].double(), weight.double(), bias.double(), 4, 1e-5)
    torch.testing.assert_close(out[-9:].double(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("backend", [named("cuda")])
@pytest.mark.parametrize("wrong", ["map", "fill", "positions"])
def test_a_tensor_elsewhere_is_refused_by_its_name(backend, wrong):
    index = torch.tensor(INDEX)
    given = {"source": torch.zeros(2, 5, 8), "map": index, "back": index, "fill": torch.zeros(8)}
    given |= {"positions": torch.zeros(5, 8), "by_output": False}
    given[wrong] = given[wrong].cpu()
    with pytest.raises(RuntimeError, match=f"{wrong}: expected it on the GPU of source, cuda:0, found it elsewhere"):
        torch.ops.eokit_cuda.map_rows(*given.values())

"""The Triton kernels in Triton's interpreter: what they compute, without a GPU.

The interpreter must be asked for before triton is imported, so the tests run in a process of their own, which the first
one starts. bfloat16 products are upcast there: the interpreter's own are wrong.
"""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from eokit.errors import ArgumentError, SetupError
from eokit.ops import attention, backends, gather_tokens, library, placement, row_mlp, scatter_tokens, use_backend
from tests.ops.cases import NAMES, assert_as_exact_as_torch, make_case
from tests.ops.conftest import assert_passes_interpreted
from tests.ops.row_cases import assert_as_exact_as, choose, make_rows, make_series, run_mlp
from tests.ops.row_cases import run_pool as pool

installed = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: pip install 'eokit[triton]'"
)
interpreted = pytest.mark.skipif(not library.INTERPRETED, reason="runs in the process with TRITON_INTERPRET=1")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@installed
@pytest.mark.slow
@pytest.mark.skipif(library.INTERPRETED, reason="this is that process")
def test_the_interpreter_agrees_with_the_reference():
    assert_passes_interpreted(__file__)


@interpreted
@every_dtype
@pytest.mark.parametrize("length", [1, 2, 17, 61])
def test_every_length_is_as_exact_as_torch(dtype, length):
    assert_as_exact_as_torch(make_case(length, length, 16), "triton", dtype)


@interpreted
@every_dtype
@pytest.mark.parametrize("dim", [8, 16, 44, 64])
def test_every_head_width_with_masks_and_a_bias_is_as_exact_as_torch(dtype, dim):
    assert_as_exact_as_torch(make_case(17, 17, dim, "scattered", bias=True), "triton", dtype)


@interpreted
@every_dtype
@pytest.mark.parametrize(("queries", "keys"), [(17, 61), (33, 2), (1, 61)])
def test_cross_attention_with_dates_left_out_is_as_exact_as_torch(dtype, queries, keys):
    assert_as_exact_as_torch(make_case(queries, keys, 16, "prefix"), "triton", dtype)


@interpreted
def test_more_than_one_tile_of_queries_and_of_keys():
    assert_as_exact_as_torch(make_case(130, 70, 8, "scattered", bias=True), "triton", torch.float16)


@interpreted
def test_sequences_without_any_key_give_zero_and_zero_gradients(poisoned):
    for name, x in make_case(9, 17, 16, "prefix").run("triton", torch.float32).items():
        assert (x[0] == 0).all(), name
        assert x[1].isfinite().all(), name
        assert (x[1] != 0).any(), name


@interpreted
@pytest.mark.parametrize("shape", [(3, 9, 17), (2, 2, 3, 9, 17), (2, 1, 1, 9, 1), (1, 2, 3, 1, 17), (9, 17), (17,)])
def test_a_bias_of_any_shape_has_the_gradient_of_the_reference(shape):
    case = make_case(9, 17, 8, "scattered")
    q, k, v = (x.repeat(1, 1, 1, 2, 1)[..., :3, :] for x in (case.q, case.k, case.v))
    results = []
    for dtype, name in ((torch.float64, "reference"), (torch.float32, "triton")):
        torch.manual_seed(1)
        bias = torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
        leaves = [x.to(dtype).detach().requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, key_mask=case.key_mask, bias=bias, backend=name)
        results.append((out, *torch.autograd.grad((out * out).sum(), [*leaves, bias])))
    for what, exact, ours in zip(NAMES, *results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4, msg=what)


@interpreted
def test_slices_of_one_projection_are_read_in_place_and_stored_as_the_series(poisoned):
    qkv = torch.randn(2, 5, 3, 3, 2, 8)
    q, k, v = (x.transpose(1, 2) for x in qkv.unbind(-3))  # (B, N, T, H, D) of (B, T, N, 3, H, D)
    out = attention(q, k, v, backend="triton")
    assert out.stride() == torch.empty_like(q).stride()
    torch.testing.assert_close(out, attention(q, k, v, backend="reference"), rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3), (2, 3, 1, 2)])
def test_any_number_of_leading_dimensions(shape):
    q, k, v = (torch.randn(*shape, length, 2, 8) for length in (5, 6, 6))
    exact = attention(q, k, v, backend="reference")
    torch.testing.assert_close(attention(q, k, v, backend="triton"), exact, rtol=1e-4, atol=1e-5)


@interpreted
def test_leading_dimensions_that_no_two_strides_describe_are_copied():
    def view(length):
        return torch.randn(2, 3, 2, length, 2, 12)[..., :8].permute(1, 0, 2, 3, 4, 5).requires_grad_()

    q, k, v = view(5), view(6), view(6)
    mask, bias = torch.rand(3, 1, 2, 6) > 0.3, torch.randn(1, 2, 1, 2, 5, 6, requires_grad=True)
    results = []
    for name in ("reference", "triton"):
        out = attention(q, k, v, key_mask=mask, bias=bias, backend=name)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v, bias))))
    for what, exact, ours in zip(NAMES, *results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4, msg=what)


@interpreted
@pytest.mark.parametrize("keys", [0, 3])
def test_empty_inputs_give_empty_outputs_and_zeros(keys):
    q = torch.randn(2, 0 if keys else 5, 2, 8, requires_grad=True)
    k = torch.randn(2, keys, 2, 8, requires_grad=True)
    out = attention(q, k, k, backend="triton")
    assert (out == 0).all()
    assert all((grad == 0).all() for grad in torch.autograd.grad(out.sum(), (q, k)))


@interpreted
def test_the_log_sum_is_that_of_the_scores_and_infinite_without_keys():
    q, k = torch.randn(2, 5, 2, 8), torch.randn(2, 7, 2, 8)
    mask = torch.tensor([[True] * 7, [False] * 7])
    lse = torch.ops.eokit.attention_forward(q, k, k, mask, None, 0.5)[1]
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * 0.5
    torch.testing.assert_close(lse[0], scores[0].logsumexp(-1))
    assert (lse[1] == float("inf")).all()


@interpreted
def test_the_ops_pass_opcheck():
    q, k, v = (torch.randn(2, 2, n, 2, 8, requires_grad=True) for n in (5, 7, 7))
    bias_t = torch.randn(2, 1, 2, 7, 5, requires_grad=True)
    torch.library.opcheck(torch.ops.eokit.attention_forward.default, (q, k, v, None, bias_t, 0.25))


@interpreted
@every_dtype
@pytest.mark.parametrize("own", [None, False, True])
def test_tokens_go_there_and_back_as_in_the_reference(dtype, own, poisoned):
    torch.manual_seed(0)
    shapes = {None: None, False: (19, 44), True: (3, 19, 44)}
    x, visible, mask_token = torch.randn(3, 19, 44), torch.randn(3, 7, 44), torch.randn(44)
    pos = None if own is None else torch.randn(shapes[own])
    leaves = [one.to(dtype).requires_grad_() for one in (x, visible, mask_token, pos) if one is not None]
    index, results = choose(3, 19, 7), []
    for name in ("reference", "triton"):
        x, visible, mask_token, *rest = leaves
        with use_backend(name):
            gathered = gather_tokens(x, index, *rest)
            scattered = scatter_tokens(visible, index, 19, mask_token, *rest)
            loss = gathered.float().square().sum() + scattered.float().square().sum()
            results.append((gathered, scattered, *torch.autograd.grad(loss, leaves)))
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@interpreted
@every_dtype
@pytest.mark.parametrize("width", [96, 100, 768])
def test_the_fused_norm_is_as_exact_as_torch(dtype, width, poisoned):
    torch.manual_seed(0)
    z, grad = torch.randn(37, width).to(dtype) + 3, torch.randn(37, width).to(dtype)
    gain, shift = torch.randn(2, width)
    ours, theirs, exact = [], [], []
    for results, name, wide in (
        (exact, "reference", torch.float64),
        (theirs, "reference", dtype),
        (ours, "triton", dtype),
    ):
        from eokit.ops.row_mlp import reference

        leaves = [
            z.to(wide).requires_grad_(),
            *(one.to(torch.promote_types(wide, torch.float32)) for one in (gain, shift)),
        ]
        if name == "reference":
            leaves = [one.detach().requires_grad_() for one in leaves]
            out = reference.norm_relu(*leaves, 4, 1e-5)
            results += [out, *torch.autograd.grad(out, leaves, grad.to(wide))]
        else:
            results.append(torch.ops.eokit.norm_relu(z, gain, shift, 4, 1e-5))
            results += torch.ops.eokit.norm_relu_backward(grad, z, gain, shift, 4, 1e-5)
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        limit = 2 * (b - truth).abs().max() + torch.finfo(dtype).eps * truth.abs().max()
        assert (a - truth).abs().max() <= limit


@interpreted
@every_dtype
@pytest.mark.parametrize(("inputs", "features", "groups"), [(10, 96, 4), (96, 400, 4), (33, 256, 1), (17, 44, 2)])
def test_a_layer_with_norm_and_relu_as_epilogue_is_as_exact_as_torch(dtype, inputs, features, groups, poisoned):
    from eokit.ops.row_mlp import reference, triton_gemm

    torch.manual_seed(0)
    x, weight = torch.randn(137, inputs).to(dtype), (torch.randn(features, inputs) / inputs**0.5).to(dtype)
    bias, (gain, shift) = torch.randn(features).to(dtype), torch.randn(2, features)
    ours, layer = x.new_empty(137, features), (weight, bias, gain, shift)
    triton_gemm.linear_norm_relu(x, *layer, groups, 1e-5, ours)
    theirs = reference.row_mlp(x, [layer], groups, 1e-5)
    exact = reference.row_mlp(x.double(), [[one.double() for one in layer]], groups, 1e-5)
    assert_as_exact_as([ours], [theirs], [exact])


@interpreted
def test_a_layer_is_one_kernel_in_half_precision_where_its_groups_fit(monkeypatch):
    from eokit.ops.row_mlp import triton_gemm

    widths, run = [], triton_gemm.linear_norm_relu
    monkeypatch.setattr(triton_gemm, "linear_norm_relu", lambda *x: widths.append(len(x[1])) or run(*x))
    x, layers = make_rows(3, (10, 96, 1536, 16))
    for dtype in (torch.float16, torch.float32):
        run_mlp("triton", dtype, (x, layers), 4, torch.ones(3, 16))
    assert widths == [96, 16]


@interpreted
def test_the_row_mlp_stands_on_it():
    layers = [[torch.randn(16, 12), *torch.randn(3, 16)], [torch.randn(8, 16), *torch.randn(3, 8)]]
    x = torch.randn(13, 12)
    with use_backend("triton"):
        ours = row_mlp(x, layers)
    with use_backend("reference"):
        torch.testing.assert_close(ours, row_mlp(x, layers), rtol=1e-4, atol=1e-4)


@interpreted
@every_dtype
@pytest.mark.parametrize("shape", [(2, 3, 19, 4, 6), (1, 2, 16, 16, 16), (2, 2, 3, 1, 5)], ids=str)
def test_pooling_is_as_exact_as_the_reference(dtype, shape, poisoned):
    torch.manual_seed(0)
    *case, mask = make_series(*shape, mask="pixels")
    case = (*(one.to(dtype).double() for one in case), mask)
    samples, pixels, _, heads, values = shape
    grad = torch.randn(samples, pixels, heads * values).to(dtype).double()
    exact = pool("reference", torch.float64, case, grad)
    ours, theirs = pool("triton", dtype, case, grad), pool("reference", dtype, case, grad)
    assert_as_exact_as(ours, theirs, exact)


@interpreted
def test_pooling_with_more_heads_than_registers_hold_is_left_to_torch(monkeypatch):
    from eokit.ops.temporal_pool import triton

    forward, backward, taken = triton.pool_forward, triton.pool_backward, []
    monkeypatch.setattr(triton, "pool_forward", lambda *x: taken.append(len(x[1])) or forward(*x))
    monkeypatch.setattr(triton, "pool_backward", lambda *x: taken.append(len(x[2])) or backward(*x))
    for heads in (16, 17):
        pool("triton", torch.float32, make_series(1, 2, 3, heads, 2), torch.ones(1, 2, 2 * heads))
    assert taken == [16, 16]


@interpreted
def test_odd_strides_and_addresses_change_nothing():
    torch.manual_seed(0)
    wide = torch.randn(3, 2, 3, 7, 2, 46)
    rows = [x[..., 1:45] for x in wide]
    results = []
    for views in (rows, [x.contiguous() for x in rows]):
        leaves = [x.detach().requires_grad_() for x in views]
        out = attention(*leaves, backend="triton")
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for what, ours, same in zip(NAMES, *results, strict=False):
        torch.testing.assert_close(ours, same, rtol=1e-5, atol=1e-5, msg=what)


@interpreted
def test_it_is_one_of_the_backends():
    found = {one.name: one for one in backends()}["triton"]
    assert found.available
    assert "TRITON_INTERPRET=1" in found.reason


@installed
@pytest.mark.skipif(library.INTERPRETED, reason="the interpreter takes CPU tensors")
def test_a_cpu_tensor_is_refused():
    x = torch.zeros(5, 2, 8)
    with pytest.raises(ArgumentError, match='backend="triton" takes float32, bfloat16 or float16 on a CUDA device'):
        attention(x, x, x, backend="triton")


def test_without_triton_the_backend_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(library, "TRITON", False)
    monkeypatch.setattr(library, "_TRITON_REASON", "triton is not installed; pip install 'eokit[triton]'")
    x = torch.zeros(5, 2, 8)
    with pytest.raises(SetupError, match="pip install"):
        attention(x, x, x, backend="triton")
    with pytest.raises(SetupError, match="pip install"), use_backend("triton"):
        raise AssertionError
    with use_backend(None):
        assert placement("cuda")["attention"] == "sdpa"


@installed
def test_on_a_gpu_every_op_with_kernels_is_placed_in_triton_on_request():
    with use_backend("triton"):
        assert placement("cuda")["attention"] == placement("cuda")["row_mlp"] == "triton"


@pytest.mark.parametrize("module", ["eokit", "eokit.ops", "eokit.models"])
def test_importing_it_neither_loads_triton_nor_wakes_cuda(module):
    code = (
        f"import sys, {module}; torch = sys.modules.get('torch'); "
        "print('triton' in sys.modules or bool(torch and torch.cuda.is_initialized()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr[-2000:]

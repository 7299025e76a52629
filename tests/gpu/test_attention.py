"""Attention on a GPU: every backend as exact as torch's own op, for all lengths, widths, masks, biases and strides."""

import pytest
import torch

from eokit.ops import attention, library, use_backend
from tests.gpu.conftest import REHEARSAL
from tests.gpu.support import captured, every_backend, every_kernel, named, skip_if_long, skip_without, some
from tests.ops.cases import NAMES, assert_as_exact_as_torch, make_case

LENGTHS = (1, 2, 17, 61, 143, 144, 257)
WIDTHS = (8, 16, 32, 44, 64, 96, 128)


def qkv_views(dtype, shape=(2, 5, 3, 2, 16)):
    """Temporal views (B, N, T, H, D) of a fused projection (B, T, N, 3, H, D)."""
    batch, dates, positions, heads, dim = shape
    fused = torch.randn(batch, dates, positions, 3, heads, dim).to(dtype)
    return [x.transpose(1, 2).requires_grad_() for x in fused.unbind(-3)]


def tolerance(dtype):
    return {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}


@every_backend
@pytest.mark.parametrize("length", some(LENGTHS, (1, 17, 144)))
def test_every_length_is_as_exact_as_torch(backend, dtype, length, poisoned):
    skip_if_long(length**2 * 32)
    assert_as_exact_as_torch(make_case(length, length, 32), backend, dtype)


@every_backend
@pytest.mark.parametrize("dim", some(WIDTHS, (16, 44, 128)))
def test_every_head_width_with_masks_and_a_bias_is_as_exact_as_torch(backend, dtype, dim, poisoned):
    skip_if_long(17**2 * dim)
    assert_as_exact_as_torch(make_case(17, 17, dim, "scattered", bias=True), backend, dtype)


@every_kernel
@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, "prefix", "scattered"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_width_mask_and_bias_together(backend, dtype, length, dim, mask, bias):
    skip_if_long(length**2 * dim)
    assert_as_exact_as_torch(make_case(length, length, dim, mask, bias=bias), backend, dtype)


@every_kernel
@pytest.mark.parametrize("mask", ["prefix", "scattered"])
@pytest.mark.parametrize(("queries", "keys"), [(17, 61), (143, 2), (1, 257)])
def test_cross_attention_with_masks_is_as_exact_as_torch(backend, dtype, mask, queries, keys, poisoned):
    skip_if_long(queries * keys * 16)
    assert_as_exact_as_torch(make_case(queries, keys, 16, mask), backend, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dim", WIDTHS)
@pytest.mark.parametrize(("backend", "dtype"), [named("triton", one) for one in (torch.float16, torch.float32)])
def test_every_shipped_tile_is_as_exact_as_torch(backend, dtype, dim, monkeypatch, poisoned):
    """One configuration at a time: `poisoned` leaves the tuner out. Those of rows that start anywhere fit all rows."""
    from eokit.ops.attention import triton

    length = 9 if REHEARSAL else 257
    skip_if_long(length**2 * dim)
    size = torch.empty(0, dtype=dtype).element_size()
    for tiles, kernel in (
        (triton.FORWARD, triton._forward_kernel),
        (triton.BACKWARD, triton._backward_kernel),
        (triton.GRAD_BIAS, triton._grad_bias_kernel),
    ):
        for key in tiles:
            for config in triton.configs_of(tiles, *key) if key[0] == size and dim <= key[1] else ():
                with monkeypatch.context() as only:
                    only.setattr(kernel, "fitting", lambda _, config=config: [config])
                    assert_as_exact_as_torch(make_case(length, length, dim, "scattered", bias=True), backend, dtype)


@pytest.mark.parametrize(("backend", "dtype"), [named("triton", one) for one in (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("dim", [13, 64])
def test_rows_that_start_anywhere_are_read_where_they_are(backend, dtype, dim, poisoned):
    wide = torch.randn(3, 2, 3, 17, 2, dim + 2).to(dtype)
    results = []
    for leaves in (wide[..., 1:-1], wide[..., 1:-1].contiguous()):
        q, k, v = (x.detach().requires_grad_() for x in leaves)
        out = attention(q, k, v, backend=backend)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))))
    for what, ours, theirs in zip(NAMES, *results, strict=False):
        limit = 64 * torch.finfo(dtype).eps  # other tiles, which add in another order
        torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit, msg=what)


@every_kernel
def test_sequences_without_any_key_give_zero_and_zero_gradients(backend, dtype, poisoned):
    for name, x in make_case(9, 17, 16, "prefix").run(backend, dtype).items():
        assert (x[0] == 0).all(), name
        assert x[1].isfinite().all(), name
        assert (x[1] != 0).any(), name


@every_kernel
@pytest.mark.parametrize("shape", [(3, 9, 17), (2, 2, 3, 9, 17), (2, 1, 1, 9, 1), (1, 2, 3, 1, 17), (9, 17), (17,)])
def test_a_bias_of_any_shape_has_the_gradient_of_the_reference(backend, dtype, shape):
    case, results = make_case(9, 17, 8, "scattered"), []
    views = [x.repeat(1, 1, 1, 2, 1)[..., :3, :].to(dtype).double() for x in (case.q, case.k, case.v)]
    given = torch.randn(shape).to(dtype).double()
    for wide, name in ((torch.float64, "reference"), (dtype, backend), (dtype, "sdpa")):
        leaves = [x.to(wide).detach().requires_grad_() for x in (*views, given)]
        out = attention(*leaves[:3], key_mask=case.key_mask, bias=leaves[3], backend=name)
        results.append((out, *torch.autograd.grad(out, leaves, torch.ones_like(out))))
    for what, exact, ours, theirs in zip(NAMES, *results, strict=True):
        limit = 2 * (theirs - exact).abs().max() + 8 * torch.finfo(dtype).eps * exact.abs().max()
        assert (ours - exact).abs().max() <= limit, what


@every_kernel
def test_slices_of_one_projection_are_read_in_place_and_stored_as_the_series(backend, dtype, poisoned):
    q, k, v = qkv_views(dtype)
    out = attention(q, k, v, backend=backend)
    assert out.stride() == torch.empty_like(q).stride()
    exact = attention(*(x.contiguous() for x in (q, k, v)), backend=backend)
    torch.testing.assert_close(out, exact, **tolerance(dtype))


@every_kernel
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (1, 0, 3, 2, 4), (3, 2, 1, 0, 4), (2, 0, 3, 1, 4)])
def test_any_order_in_memory_and_gaps_between_rows_change_nothing(backend, dtype, order, poisoned):
    shape, back = (2, 3, 5, 4, 24), [order.index(d) for d in range(5)]
    stored = [torch.randn([shape[d] for d in order]).to(dtype) for _ in range(3)]
    views = [x[..., :20].permute(back) for x in stored]
    exact = attention(*(x.double() for x in views), backend="reference")
    limit = 2 * (attention(*views, backend="sdpa") - exact).abs().max() + 8 * torch.finfo(dtype).eps
    assert (attention(*views, backend=backend) - exact).abs().max() <= limit


@every_kernel
def test_the_same_call_gives_the_same_bits(backend, dtype):
    case = make_case(61, 61, 32, "scattered", bias=True)
    skip_if_long(61**2 * 32)
    first = case.run(backend, dtype)
    for name, x in case.run(backend, dtype).items():
        assert torch.equal(x, first[name]), name


@every_kernel
def test_more_than_65535_sequences(backend, dtype):
    skip_if_long(65_537 * 2 * 8)
    q, k, v = (torch.randn(65_537, 2, 1, 8).to(dtype) for _ in range(3))
    out = attention(q, k, v, backend=backend)
    exact = attention(q[-2:].double(), k[-2:].double(), v[-2:].double(), backend="reference")
    torch.testing.assert_close(out[-2:].double(), exact, **tolerance(dtype))


@pytest.mark.parametrize("backend", [named("triton"), named("cuda")])
def test_more_than_two_to_the_31_elements(backend):
    """Offsets of the last sequences do not fit into 32 bits; forward and backward of bfloat16."""
    shape = (65_600, 64, 8, 64)
    assert torch.Size(shape).numel() > 2**31
    skip_without(9 * 2 * torch.Size(shape).numel())
    q, k, v, grad = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = attention(*leaves, backend=backend)
    results = [out.detach(), *torch.autograd.grad(out, leaves, grad)]
    small = [x.detach()[-2:].double().requires_grad_() for x in leaves]
    exact = attention(*small, backend="reference")
    for ours, truth in zip(results, (exact, *torch.autograd.grad(exact, small, grad[-2:].double())), strict=True):
        torch.testing.assert_close(ours[-2:].double(), truth, rtol=0.02, atol=0.02)


@every_kernel
def test_the_ops_pass_opcheck(backend, dtype):
    kernels = torch.ops.eokit_cuda if backend == "cuda" else torch.ops.eokit
    q, k, v = (torch.randn(2, 2, n, 2, 8).to(dtype).requires_grad_() for n in (5, 7, 7))
    bias_t = torch.randn(2, 1, 2, 7, 5, requires_grad=True)
    torch.library.opcheck(kernels.attention_forward.default, (q, k, v, None, bias_t, 0.25), rtol=0.02, atol=0.02)


@every_kernel
def test_it_compiles_as_one_graph_with_the_same_results(backend, dtype):
    leaves = qkv_views(dtype)
    leaves = [x.detach().requires_grad_() for x in leaves]

    def layer(q, k, v):
        return attention(q * 2, k, v, backend=backend).transpose(1, 2).flatten(-2) + 1

    expected = layer(*leaves)
    out = torch.compile(layer, fullgraph=True)(*leaves)
    torch.testing.assert_close(out, expected, **tolerance(dtype))
    grads = [torch.autograd.grad(one, leaves, torch.ones_like(one)) for one in (out, expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance(dtype))


@every_kernel
@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "forward and backward"])
def test_a_captured_graph_computes_on_new_values(backend, dtype, gradients):
    *given, grad = (torch.randn(2, 17, 2, 32).to(dtype) for _ in range(4))
    given = [x.requires_grad_(gradients) for x in given]

    def run():
        out = attention(*given, backend=backend)
        return (out, *torch.autograd.grad(out, given, grad)) if gradients else (out,)

    results, replay = captured(run)
    with torch.no_grad():
        for x in (*given, grad):
            x.copy_(torch.randn(2, 17, 2, 32))
    replay()
    for name, ours, anew in zip(NAMES, results, run(), strict=False):
        torch.testing.assert_close(ours, anew, msg=name)


@pytest.mark.parametrize("backend", [named("cuda")])
@pytest.mark.parametrize("wrong", ["k", "key_mask", "bias_t"])
def test_a_tensor_elsewhere_is_refused_by_its_name(backend, wrong):
    x = torch.zeros(5, 2, 8, dtype=torch.bfloat16)
    given = {"q": x, "k": x, "v": x, "key_mask": torch.ones(5, dtype=torch.bool), "bias_t": torch.zeros(2, 5, 5)}
    given[wrong] = given[wrong].cpu()
    with pytest.raises(RuntimeError, match=f"{wrong}: expected it on the GPU of q, cuda:0, found it elsewhere"):
        torch.ops.eokit_cuda.attention_forward(*given.values(), 0.25)


@pytest.mark.parametrize("backend", [named("triton"), named("cuda")])
def test_a_block_of_code_can_ask_for_it(backend):
    q, k, v = (torch.randn(2, 17, 2, 32).half() for _ in range(3))
    with use_backend(backend):
        out = attention(q, k, v)
    assert torch.equal(out, attention(q, k, v, backend=backend))
    assert library.default_backend() is None

"""What ops.attention promises, whatever the backend."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.ops import attention, library
from eokit.ops.attention.reference import attention as reference
from tests.ops import cases
from tests.ops.cases import NAMES, assert_as_exact_as_torch, make_case

BACKENDS = [
    "reference",
    "sdpa",
    pytest.param("cpu", marks=pytest.mark.skipif(not library.COMPILED, reason="not built")),
]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
LENGTHS = (1, 2, 17, 36, 61, 143, 144, 257)


def formula(q, k, v, scale):
    """The definition, written with einsum and without any masks."""
    weights = (torch.einsum("...ihd,...jhd->...hij", q, k) * scale).softmax(-1)
    return torch.einsum("...hij,...jhd->...ihd", weights, v)


def test_the_reference_is_the_formula():
    q, k, v = (torch.randn(3, length, 2, 8, dtype=torch.float64) for length in (5, 7, 7))
    torch.testing.assert_close(reference(q, k, v, key_mask=None, bias=None, scale=0.3), formula(q, k, v, 0.3))


@every_backend
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_is_as_exact_as_torch(backend, length):
    assert_as_exact_as_torch(make_case(length, length, 32), backend)


@every_backend
@pytest.mark.parametrize("dim", [8, 16, 32, 44, 64, 96, 128])
def test_every_head_width_is_as_exact_as_torch(backend, dim):
    assert_as_exact_as_torch(make_case(17, 17, dim, "scattered"), backend)


@every_backend
@pytest.mark.parametrize("mask", ["prefix", "scattered"])
@pytest.mark.parametrize(("queries", "keys"), [(17, 61), (143, 2), (1, 257)])
def test_cross_attention_with_masks_is_as_exact_as_torch(backend, mask, queries, keys):
    assert_as_exact_as_torch(make_case(queries, keys, 16, mask), backend)


@pytest.mark.slow
@pytest.mark.skipif(not library.COMPILED, reason="not built")
@pytest.mark.parametrize("mask", [None, "prefix", "scattered"])
@pytest.mark.parametrize("dim", [8, 16, 32, 44, 64, 96, 128])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_kernels_at_every_length_width_and_mask_is_as_exact_as_torch(length, dim, mask):
    assert_as_exact_as_torch(make_case(length, length, dim, mask))


@every_backend
def test_sequences_without_any_key_give_zero_and_zero_gradients(backend):
    case = make_case(9, 17, 16, "prefix")
    for name, x in case.run(backend, torch.float32).items():
        assert (x[0] == 0).all(), name
        assert x[1].isfinite().all(), name
        assert (x[1] != 0).any(), name


@every_backend
def test_values_under_masked_keys_change_nothing(backend):
    case = make_case(9, 17, 16, "scattered")
    before = case.run(backend, torch.float32)
    hidden = ~case.key_mask[..., None, None]
    case.k, case.v = (
        torch.where(hidden, 1e3, x).transpose(1, 2).contiguous().transpose(1, 2) for x in (case.k, case.v)
    )
    after = case.run(backend, torch.float32)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-5, msg=name)


@every_backend
def test_a_mask_shared_by_positions_is_the_same_as_one_repeated(backend):
    case = make_case(9, 17, 16, "prefix")
    shared = case.run(backend, torch.float32)
    case.key_mask = case.key_mask.expand(2, 2, 17).contiguous()
    for name, x in case.run(backend, torch.float32).items():
        torch.testing.assert_close(x, shared[name], msg=name)


@every_backend
def test_the_output_of_temporal_attention_is_stored_as_the_series(backend):
    x = torch.randn(2, 5, 3, 4, 16).transpose(1, 2)
    assert attention(x, x, x, backend=backend).transpose(1, 2).is_contiguous()


@every_backend
def test_slices_of_one_projection_are_read_in_place_and_stored_densely(backend):
    qkv = torch.randn(2, 5, 7, 3, 4, 16)
    q, k, v = qkv.unbind(-3)
    out = attention(q, k, v, backend=backend)
    assert out.is_contiguous()
    torch.testing.assert_close(out, attention(q.contiguous(), k.contiguous(), v.contiguous(), backend=backend))


@every_backend
@pytest.mark.parametrize("lead", [(), (3,), (2, 1, 3), (2, 3, 1, 2)])
def test_any_number_of_leading_dimensions(backend, lead):
    q, k, v = (torch.randn(*lead, length, 2, 8) for length in (5, 6, 6))
    expected = formula(q, k, v, 8**-0.5)
    torch.testing.assert_close(attention(q, k, v, backend=backend), expected, rtol=1e-4, atol=1e-5)


@every_backend
@pytest.mark.parametrize("shape", [(0, 5, 2, 8), (3, 0, 2, 8), (3, 5, 0, 8)])
def test_empty_inputs_give_empty_outputs_and_gradients(backend, shape):
    q = torch.randn(shape, requires_grad=True)
    out = attention(q, q, q, backend=backend)
    assert out.shape == shape
    assert torch.autograd.grad(out.sum(), q)[0].shape == shape


@every_backend
def test_no_keys_at_all_give_zero(backend):
    q = torch.randn(2, 5, 2, 8, requires_grad=True)
    k = torch.randn(2, 0, 2, 8)
    out = attention(q, k, k, backend=backend)
    assert (out == 0).all()
    assert (torch.autograd.grad(out.sum(), q)[0] == 0).all()


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_that_nobody_looks_at_have_gradient_zero(backend, dtype):
    q, k, v = (torch.randn(2, length, 3, 16, dtype=dtype, requires_grad=True) for length in (0, 30, 30))
    for _ in range(5):  # memory that others used before
        grads = torch.autograd.grad(attention(q, k, v, backend=backend).sum(), (k, v))
        assert all((x == 0).all() for x in grads)


@every_backend
def test_more_than_65535_sequences(backend):
    q, k, v = (torch.randn(65_537, 2, 1, 8) for _ in range(3))
    out = attention(q, k, v, backend=backend)
    torch.testing.assert_close(out[-2:], formula(q, k, v, 8**-0.5)[-2:], rtol=1e-4, atol=1e-5)


@every_backend
@pytest.mark.parametrize("shape", [(3, 9, 17), (2, 2, 3, 9, 17), (2, 1, 1, 9, 1), (9, 17), (17,)])
@pytest.mark.parametrize("mask", [None, "scattered"])
def test_bias_and_its_gradient_follow_the_reference(backend, shape, mask):
    case = make_case(9, 17, 16, mask)
    q, k, v = (x.repeat(1, 1, 1, 2, 1)[..., :3, :] for x in (case.q, case.k, case.v))
    results = []
    for dtype, name in ((torch.float64, "reference"), (torch.float32, backend)):
        torch.manual_seed(1)
        bias = torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
        leaves = [x.to(dtype).detach().requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, key_mask=case.key_mask, bias=bias, backend=name)
        results.append((out, *torch.autograd.grad((out * out).sum(), [*leaves, bias])))
    for what, exact, ours in zip(NAMES, *results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4, msg=what)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", [None, "prefix", "scattered"])
def test_half_precision_is_as_exact_as_torch_and_keeps_its_dtype(dtype, mask):
    case = make_case(17, 17, 32, mask)
    assert_as_exact_as_torch(case, None, dtype)
    assert case.run(None, dtype)["out"].dtype == dtype


def test_the_comparison_sees_an_error_of_some_roundings(monkeypatch):
    case = make_case(17, 17, 32)
    monkeypatch.setattr(
        cases, "attention", lambda *x, backend, **rest: _off(attention(*x, backend=backend, **rest), backend)
    )
    with pytest.raises(AssertionError, match=r"out: error 0\.0"):
        assert_as_exact_as_torch(case, None, torch.bfloat16)


def _off(out, backend):
    return out if backend else out + 0.06  # eight roundings of numbers between 1 and 2


def test_float64_stays_float64():
    case = make_case(9, 9, 8)
    exact = case.run("reference", torch.float64)
    for name, x in case.run(None, torch.float64).items():
        torch.testing.assert_close(x, exact[name], msg=name)


def test_autocast_computes_in_its_dtype_as_sdpa_does():
    q, k, v = (torch.randn(2, 9, 2, 16) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(q, k, v)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), attention(q, k, v), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("scale", [0.0, -0.7, 2.5])
@every_backend
def test_any_finite_scale(backend, scale):
    q, k, v = (torch.randn(3, 7, 2, 8) for _ in range(3))
    out = attention(q, k, v, scale=scale, backend=backend)
    torch.testing.assert_close(out, formula(q, k, v, scale), rtol=1e-4, atol=1e-5)


@every_backend
def test_scores_of_thousands_do_not_overflow(backend):
    q, k, v = (torch.randn(3, 7, 2, 8) for _ in range(3))
    out = attention(q * 100, k * 100, v, backend=backend)
    exact = formula(q.double() * 100, k.double() * 100, v.double(), 8**-0.5)
    torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=1e-2)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_strides_shape_and_mask_follow_the_reference(data):
    """Sizes, the order of the dimensions in memory, the gaps between them and the mask are drawn at random."""
    sizes = {name: data.draw(st.integers(1, 5), name) for name in ("a", "b", "heads")}
    queries, keys, dim = (data.draw(st.integers(1, top)) for top in (20, 20, 40))
    torch.manual_seed(data.draw(st.integers(0, 1000)))

    def view(length):
        shape = (sizes["a"], sizes["b"], length, sizes["heads"])
        order = data.draw(st.permutations(range(4)))
        gap = data.draw(st.integers(0, 2))
        stored = torch.randn(*(shape[d] for d in order), dim + gap)[..., :dim]
        return stored.permute(*(order.index(d) for d in range(4)), 4)

    q, k, v = view(queries), view(keys), view(keys)
    mask = torch.rand(data.draw(st.sampled_from([1, sizes["a"]])), data.draw(st.sampled_from([1, sizes["b"]])), keys)
    mask = mask > data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    out = attention(q, k, v, key_mask=mask)
    exact = attention(q.double(), k.double(), v.double(), key_mask=mask, backend="reference")
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-5)
    assert out.stride() == torch.empty_like(q).stride()

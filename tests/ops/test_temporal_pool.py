"""Temporal pooling: the identity it rests on, its gradients, masks, dtypes, threads, and refused arguments."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.errors import ArgumentError
from eokit.ops import temporal_pool
from tests.ops.conftest import compiled
from tests.ops.row_cases import make_series as make
from tests.ops.row_cases import run_pool as run


def test_it_is_attention_with_one_learned_query_and_slices_as_values():
    """L-TAE as published: keys by a projection with a bias, positions repeated for every head."""
    x, _, positions, _ = make(2, 3, 7, 4, 6)
    project, bias, query = torch.randn(4, 8, 24).double(), torch.randn(4, 8).double(), torch.randn(4, 8).double()
    features = x + positions.repeat(1, 1, 4)[:, None]
    keys = torch.einsum("hkd,sntd->snthk", project, features) + bias
    weights = (torch.einsum("hk,snthk->snth", query, keys) / math.sqrt(8)).softmax(2)
    expected = torch.einsum("snth,snthv->snhv", weights, features.unflatten(-1, (4, 6))).flatten(-2)
    folded = torch.einsum("hkd,hk->hd", project, query) / math.sqrt(8)
    torch.testing.assert_close(temporal_pool(x, folded, positions), expected)


@compiled
@settings(deadline=None, max_examples=40)
@given(
    *(st.integers(1, high) for high in (3, 5, 20, 5, 21)),
    st.sampled_from([None, "dates", "pixels"]),
    st.integers(0, 99),
)
def test_the_kernels_follow_the_reference(samples, pixels, dates, heads, values, mask, seed):
    torch.manual_seed(seed)
    case = make(samples, pixels, dates, heads, values, mask=mask)
    grad = torch.randn(samples, pixels, heads * values).double()
    exact = run("reference", torch.float64, case, grad)
    for name, ours, truth in zip(
        ("out", "grad_x", "grad_queries"), run(None, torch.float32, case, grad), exact, strict=True
    ):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-4, msg=name)


@compiled
@pytest.mark.parametrize("name", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set_is_as_exact_as_the_reference(instruction_set_or_skip, name, dtype):
    instruction_set_or_skip(name)
    torch.manual_seed(0)
    x, queries, positions, mask = make(2, 5, 61, 16, 48, mask="pixels")
    case = (x.to(dtype).double(), queries.to(dtype).double(), positions.to(dtype).double(), mask)
    grad = torch.randn(2, 5, 768).to(dtype).double()
    exact = run("reference", torch.float64, case, grad)
    ours, theirs = run(None, dtype, case, grad), run("reference", dtype, case, grad)
    for a, b, truth in zip(ours, theirs, exact, strict=True):
        limit = 2 * (b - truth).abs().max() + torch.finfo(dtype).eps * truth.abs().max()
        assert (a - truth).abs().max() <= limit


@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_pixel_without_dates_gives_zero_and_zero_gradients(backend):
    case = make(2, 3, 7, 4, 6, mask="pixels")
    out, grad_x, grad_queries = run(backend, torch.float32, case, torch.ones(2, 3, 24))
    assert (out[0, 0] == 0).all()
    assert (grad_x[0, 0] == 0).all()
    assert grad_queries.isfinite().all()
    assert (grad_x[~case[3]] == 0).all()


@compiled
def test_values_under_masked_dates_are_never_read():
    x, queries, positions, mask = make(2, 3, 7, 4, 6, torch.float32, "pixels")
    poisoned = x.masked_fill(~mask[..., None], float("nan"))
    assert torch.equal(temporal_pool(poisoned, queries, positions, key_mask=mask),
                       temporal_pool(x, queries, positions, key_mask=mask))  # fmt: skip


@compiled
def test_any_number_of_threads_and_pixels_gives_the_same_bits(poisoned):
    case = make(3, 40, 17, 4, 8, torch.float32, "dates")
    grad = torch.randn(3, 40, 32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(run(None, torch.float32, case, grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
    x, queries, positions, mask = case
    alone = temporal_pool(x[:1, :1], queries, positions[:1], key_mask=mask[:1])
    assert torch.equal(alone, results[0][0][:1, :1])


def test_rows_far_apart_are_read_in_place():
    x, queries, positions, _ = make(2, 3, 7, 4, 6, torch.float32)
    far = x.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(temporal_pool(far, queries, positions), temporal_pool(x, queries, positions))


@pytest.mark.parametrize("shape", [(0, 3, 7), (2, 0, 7), (2, 3, 0)])
def test_empty_inputs(shape):
    x, queries, positions, _ = make(*shape, 4, 6, torch.float32)
    assert temporal_pool(x, queries, positions).shape == (*shape[:2], 24)


@pytest.mark.parametrize("mask", [None, "pixels"])
def test_the_op_passes_opcheck(mask):
    x, queries, positions, mask = make(2, 3, 5, 2, 4, torch.float32, mask)
    mask = None if mask is None else mask.reshape(6, 5)
    arguments = x.view(6, 5, 8).requires_grad_(), queries.requires_grad_(), torch.randn(2, 5, 2), positions, mask
    torch.library.opcheck(torch.ops.eokit.pool_forward.default, arguments)
    plain = [None if one is None else one.detach() for one in arguments]
    out, lse = torch.ops.eokit.pool_forward(*plain)
    torch.library.opcheck(torch.ops.eokit.pool_backward.default, (torch.randn_like(out), *plain, lse))


@pytest.mark.parametrize("mask", [None, "pixels"])
def test_the_reference_passes_gradcheck(mask):
    x, queries, positions, key_mask = make(1, 2, 3, 2, 2, mask=mask)
    function = lambda x, q: temporal_pool(x, q, positions, key_mask=key_mask)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), queries.requires_grad_()))


X, Q, P = torch.zeros(2, 3, 5, 8), torch.zeros(2, 8), torch.zeros(2, 5, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": X[0]}, ["x is torch.float32 (3, 5, 8)", "(S, N, T, D)"]),
        ({"x": X.transpose(2, 3)}, ["x has strides", "contiguous"]),
        ({"queries": Q[:, :4]}, ["queries is torch.float32 (2, 4)", "(H, 8)"]),
        ({"queries": torch.zeros(3, 8)}, ["queries has 3 heads", "divisor of the 8"]),
        ({"positions": P[:1]}, ["positions is torch.float32 (1, 5, 4)", "(2, 5, 4)"]),
        ({"positions": P.clone().requires_grad_()}, ["positions requires a gradient"]),
        ({"key_mask": torch.ones(2, 3, 5)}, ["key_mask is torch.float32", "torch.bool"]),
        ({"key_mask": torch.ones(2, 5, dtype=torch.bool)}, ["key_mask has shape (2, 5)", "(2, 3, 5)"]),
        ({"queries": Q.to("meta")}, ["queries is on meta", "cpu"]),
    ],
)
def test_a_wrong_argument_is_named(change, words):
    arguments = {"x": X, "queries": Q, "positions": P} | change
    with pytest.raises(ArgumentError) as caught:
        temporal_pool(arguments["x"], arguments["queries"], arguments["positions"], key_mask=arguments.get("key_mask"))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)

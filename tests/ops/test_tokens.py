"""Gathered and scattered tokens: as the formula says, with its gradients, for every layout; a bad index is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eokit.errors import ArgumentError
from eokit.ops import gather_tokens, scatter_tokens, use_backend
from eokit.ops.tokens import reference
from tests.ops.conftest import compiled
from tests.ops.row_cases import choose


def leaf(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def plain_gather(x, index, pos):
    batch = torch.arange(len(x))[:, None]
    return x[batch, index] if pos is None else x[batch, index] + (pos[index] if pos.dim() == 2 else pos[batch, index])


def plain_scatter(visible, index, length, mask_token, pos):
    out = mask_token.expand(len(visible), length, -1).clone()
    out[torch.arange(len(visible))[:, None], index] = visible
    return out if pos is None else out + pos


def assert_same(ours, theirs, leaves, **tolerance):
    torch.testing.assert_close(ours, theirs, **tolerance)
    grad = torch.randn_like(ours)
    grads = [torch.autograd.grad(out, leaves, grad) for out in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


widths = st.integers(1, 40) | st.integers(126, 140)  # those of narrow and wide tokens have gradients of their own
sizes = st.tuples(st.integers(1, 4), st.integers(1, 20), widths, st.integers(0, 20))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("pos_kind", [None, "shared", "own"])
@settings(deadline=None, max_examples=25)
@given(sizes, st.integers(0, 99))
def test_gathering_follows_the_formula(backend, pos_kind, size, seed):
    torch.manual_seed(seed)
    batch, length, dim, count = size
    x, index = leaf(batch, length, dim), choose(batch, length, min(count, length))
    pos = {None: None, "shared": leaf(length, dim), "own": leaf(batch, length, dim)}[pos_kind]
    leaves = [x] if pos is None else [x, pos]
    with use_backend(backend):
        assert_same(gather_tokens(x, index, pos), plain_gather(x, index, pos), leaves)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("pos_kind", [None, "shared", "own"])
@settings(deadline=None, max_examples=25)
@given(sizes, st.integers(0, 99))
def test_scattering_follows_the_formula(backend, pos_kind, size, seed):
    torch.manual_seed(seed)
    batch, length, dim, count = size
    count = min(count, length)
    visible, index, mask_token = leaf(batch, count, dim), choose(batch, length, count), leaf(dim)
    pos = {None: None, "shared": leaf(length, dim), "own": leaf(batch, length, dim)}[pos_kind]
    leaves = [visible, mask_token] + ([] if pos is None else [pos])
    with use_backend(backend):
        ours = scatter_tokens(visible, index, length, mask_token, pos)
        assert_same(ours, plain_scatter(visible, index, length, mask_token, pos), leaves)


def test_scattering_puts_back_what_was_gathered():
    x, index = torch.randn(3, 11, 8), choose(3, 11, 11)
    assert torch.equal(scatter_tokens(gather_tokens(x, index), index, 11, torch.full((8,), 9.0)), x)


@pytest.mark.parametrize("own", [False, True])
def test_a_different_number_of_tokens_per_sample(own):
    x, pos = leaf(3, 7, 5), leaf(3, 7, 5) if own else leaf(7, 5)
    parts = [torch.tensor([6, 0, 3]), torch.tensor([], dtype=torch.long), torch.tensor([2])]
    index, offsets = torch.cat(parts), torch.tensor([0, 3, 3, 4])
    each = [plain_gather(x[b : b + 1], p[None], pos[b] if own else pos)[0] for b, p in enumerate(parts)]
    ours = gather_tokens(x, index, pos, offsets=offsets)
    assert_same(ours, torch.cat(each), [x, pos])
    visible, mask_token = ours.detach().requires_grad_(), leaf(5)
    each = [
        plain_scatter(visible[offsets[b] : offsets[b + 1]][None], p[None], 7, mask_token, pos[b] if own else pos)
        for b, p in enumerate(parts)
    ]
    assert_same(
        scatter_tokens(visible, index, 7, mask_token, pos, offsets=offsets),
        torch.cat(each),
        [visible, mask_token, pos],
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_rounded_once(dtype):
    x, index, pos = leaf(2, 9, 24, dtype=dtype), choose(2, 9, 5), leaf(9, 24)
    assert_same(gather_tokens(x, index, pos), plain_gather(x, index, pos.to(dtype)), [x, pos], rtol=0.02, atol=0.02)
    mask_token = leaf(24)
    ours = scatter_tokens(x[:, :5], index, 9, mask_token, pos)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, plain_scatter(x[:, :5], index, 9, mask_token.to(dtype), pos.to(dtype)))


def test_rows_far_apart_are_read_in_place():
    x = torch.randn(2, 9, 3, 16)[:, :, 1]
    index = choose(2, 9, 4)
    assert torch.equal(gather_tokens(x, index), plain_gather(x, index, None))


@compiled
@pytest.mark.parametrize("width", [48, 144])
def test_any_number_of_threads_gives_the_same_bits(width):
    # Seven threads have some rows each: a thread gets at least 100,000 elements.
    visible, index, mask_token, pos = leaf(8, 600, width), choose(8, 2000, 600), leaf(width), leaf(2000, width)
    grad = torch.randn(8, 2000, width)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            out = scatter_tokens(visible, index, 2000, mask_token, pos)
            results.append([out, *torch.autograd.grad(out, [visible, mask_token, pos], grad)])
            gathered = gather_tokens(grad, index, pos)
            results[-1] += [gathered, *torch.autograd.grad(gathered, [pos], visible.detach())]
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@compiled
@pytest.mark.parametrize("name", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set(instruction_set_or_skip, name, dtype):
    instruction_set_or_skip(name)
    visible, index, pos, mask_token = (torch.randn(2, 5, 43), choose(2, 9, 5), torch.randn(9, 43), torch.randn(43))
    visible, pos, mask_token = (x.to(dtype) for x in (visible, pos, mask_token))
    ours = scatter_tokens(visible, index, 9, mask_token, pos)
    torch.testing.assert_close(ours, reference.scatter_tokens(visible, index, 9, mask_token, pos))
    places = torch.ops.eokit.invert_index(index, 9)
    for op, grad in [("gather_gradients", visible), ("scatter_gradients", ours)]:
        found = getattr(torch.ops.eokit, op)(grad, places, index)
        torch.testing.assert_close(found, getattr(reference, op)(grad, places, index))


@pytest.mark.parametrize("width", [8, 128])
def test_the_gradients_of_gathering_have_some_themselves(width):
    x, index, pos, grad = leaf(3, 9, width), choose(3, 9, 4), leaf(9, width), leaf(3, 4, width)
    assert_same_second_gradients(gather_tokens(x, index, pos), plain_gather(x, index, pos), [pos], [x, pos], grad)


@pytest.mark.parametrize("width", [8, 128])
def test_the_gradients_of_scattering_have_some_themselves(width):
    visible, mask_token, pos, grad = leaf(3, 4, width), leaf(width), leaf(9, width), leaf(3, 9, width)
    index = choose(3, 9, 4)
    ours, exact = (f(visible, index, 9, mask_token, pos) for f in (scatter_tokens, plain_scatter))
    assert_same_second_gradients(ours, exact, [mask_token, pos], [visible, mask_token, pos], grad)


def assert_same_second_gradients(ours, exact, inputs, leaves, grad):
    """Those of the gradients of a square with respect to `inputs`."""
    ours, exact = (torch.autograd.grad(out.square(), inputs, grad, create_graph=True) for out in (ours, exact))
    weights = [torch.randn_like(x) for x in inputs]
    pairs = zip(*(torch.autograd.grad(first, [*leaves, grad], weights) for first in (ours, exact)), strict=True)
    for second, plain in pairs:
        torch.testing.assert_close(second, plain)


@pytest.mark.parametrize("size", [(0, 9, 4, 8), (3, 9, 0, 8), (3, 9, 4, 0)])
def test_no_samples_no_tokens_and_no_features_have_gradients(size):
    batch, length, count, dim = size
    x, pos, index = leaf(batch, length, dim), leaf(length, dim), choose(batch, length, count)
    found = torch.autograd.grad(gather_tokens(x, index, pos).sum(), [x, pos])
    assert [one.shape for one in found] == [x.shape, pos.shape]
    assert all(not one.any() for one in found)
    visible, mask_token = leaf(batch, count, dim), leaf(dim)
    out = scatter_tokens(visible, index, length, mask_token, pos)
    found = torch.autograd.grad(out.sum(), [visible, mask_token, pos])
    assert [one.shape for one in found] == [visible.shape, mask_token.shape, pos.shape]
    assert (found[1] == batch * (length - count)).all()
    assert (found[2] == batch).all()


@compiled
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [24, 264])
def test_gradients_of_positions_are_summed_in_float32(dtype, width):
    x, index, pos = leaf(64, 9, width, dtype=dtype), choose(64, 9, 5), leaf(9, width, dtype=dtype)
    grad = torch.randn(64, 5, width).to(dtype)
    with use_backend("cpu"):
        (ours,) = torch.autograd.grad(gather_tokens(x, index, pos), pos, grad)
    exact = torch.zeros(9, width).index_add(0, index.flatten(), grad.float().flatten(0, 1))
    torch.testing.assert_close(ours, exact.to(dtype))
    mask_token, grad = leaf(width, dtype=dtype), torch.randn(64, 9, width).to(dtype)
    with use_backend("cpu"):
        out = scatter_tokens(x[:, :5], index, 9, mask_token, pos)
        to_mask_token, to_pos = torch.autograd.grad(out, [mask_token, pos], grad)
    torch.testing.assert_close(to_pos, grad.float().sum(0).to(dtype))
    hidden = torch.ones(64, 9).scatter(1, index, 0)[..., None]
    torch.testing.assert_close(to_mask_token, (hidden * grad.float()).sum((0, 1)).to(dtype))


@compiled
@pytest.mark.parametrize("memory", [5, 7])
@pytest.mark.parametrize("samples", [4, 70])
def test_rows_written_past_the_caches_and_through_them_are_the_same(poisoned, memory, samples):
    """Visible rows of 5 MiB and of 7; with sums of several parts where samples are many."""
    rows = memory * 2**20 // (samples * 64 * 4)
    index = choose(samples, 3 * rows, rows)
    inverse = torch.ops.eokit.invert_index(index, 3 * rows)
    grad = torch.randn(samples, 3 * rows, 64)
    visible, mask_token, positions = torch.ops.eokit.scatter_gradients(grad, inverse, index)
    x, of_gathered = torch.ops.eokit.gather_gradients(visible, inverse, index)
    assert torch.equal(visible, plain_gather(grad, index, None))
    hidden = (inverse < 0)[..., None]
    assert torch.equal(x, torch.where(hidden, 0, grad))
    exact = grad.double()
    torch.testing.assert_close(positions, exact.sum(0).float())
    torch.testing.assert_close(of_gathered, torch.where(hidden, 0, exact).sum(0).float())
    torch.testing.assert_close(mask_token, torch.where(hidden, exact, 0).sum((0, 1)).float(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("width", [16, 256])
def test_infinite_gradients_have_infinite_sums(width):
    index, pos, mask_token = choose(100, 9, 4), leaf(9, width), leaf(width)
    visible, grad = leaf(100, 4, width), torch.randn(100, 9, width)
    grad[40, :, 0] = float("inf")
    out = scatter_tokens(visible, index, 9, mask_token, pos)
    of_mask_token, of_pos = torch.autograd.grad(out, [mask_token, pos], grad)
    (gathered,) = torch.autograd.grad(gather_tokens(out.detach(), index, pos), pos, grad[:, :4])
    for sums in (of_mask_token[None], of_pos, gathered[index[40]]):
        assert (sums[:, 0] == float("inf")).all()
        assert sums[:, 1:].isfinite().all()


@compiled
@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize(
    "size", [(16, 1024, 384), (256, 64, 64), (1024, 16, 128), (1, 20_000, 32), (4096, 1, 32), (65_536, 2, 16)]
)
def test_long_sums_are_as_exact_as_torchs(size, mean):
    batch, length, _ = size
    index, grad = choose(batch, length, max(length // 4, length > 1)), torch.randn(size) + mean
    inverse = torch.ops.eokit.invert_index(index, length)
    _, of_mask_token, of_positions = torch.ops.eokit.scatter_gradients(grad, inverse, index)
    alone = torch.ops.eokit.sum_unmapped(grad, inverse)
    hidden = torch.where((inverse < 0)[..., None], grad, 0)

    def error(found, exact):
        return (found - exact).square().mean().sqrt()

    def limit(theirs, exact):  # half of an eps: the largest result is rounded
        return 2 * error(theirs, exact) + torch.finfo(torch.float32).eps / 2 * exact.abs().max()

    exact = hidden.double().sum((0, 1))
    most = limit(hidden.sum((0, 1)), exact)
    assert error(of_mask_token, exact) <= most
    assert error(alone, exact) <= most
    exact = grad.double().sum(0)
    assert error(of_positions, exact) <= limit(grad.sum(0), exact)


@compiled
@pytest.mark.parametrize(
    ("inverse", "words"),
    [
        ([[0, 2, -1, -1]], r"inverse: 2 is outside 0..1"),
        ([[0, -1, -1, -1]], "inverse: expected a place for every row of index"),
        ([[0, 1, 1, -1]], "inverse: expected a place for every row of index"),
        ([[0, -1, 1, -1]], "inverse: expected row 1 of sample 0 at 1"),
    ],
)
def test_gradients_need_a_place_for_every_row(inverse, words):
    inverse, index = torch.tensor(inverse), torch.tensor([[0, 1]])
    with pytest.raises(RuntimeError, match=words):
        torch.ops.eokit.scatter_gradients(torch.randn(1, 4, 8), inverse, index)


@compiled
def test_gradients_of_rows_that_are_not_there_are_refused():
    inverse, index = torch.tensor([[0, 2, -1, -1]]), torch.tensor([[0, 1]])
    with pytest.raises(RuntimeError, match=r"inverse: 2 is outside 0..1"):
        torch.ops.eokit.gather_gradients(torch.randn(1, 2, 8), inverse, index)


def test_more_than_65535_rows_and_empty_batches():
    x, index = torch.randn(70_000, 3, 4), choose(1, 3, 2).expand(70_000, 2)
    assert torch.equal(gather_tokens(x, index), plain_gather(x, index, None))
    assert gather_tokens(x[:0], index[:0]).shape == (0, 2, 4)
    assert scatter_tokens(x[:0, :2], index[:0], 3, x[0, 0]).shape == (0, 3, 4)


@pytest.mark.parametrize("scatter", [False, True])
def test_the_op_passes_opcheck(scatter):
    index = choose(2, 9, 5)
    inverse = torch.ops.eokit.invert_index(index, 9)
    if scatter:
        arguments = (leaf(2, 5, 8), inverse, index, leaf(8), leaf(9, 8), True)
    else:
        arguments = (leaf(2, 9, 8), index, inverse, None, leaf(9, 8), False)
    torch.library.opcheck(torch.ops.eokit.map_rows.default, arguments)
    torch.library.opcheck(torch.ops.eokit.invert_index.default, (index, 9))
    torch.library.opcheck(torch.ops.eokit.sum_unmapped.default, (torch.randn(2, 9, 8), inverse))
    torch.library.opcheck(torch.ops.eokit.gather_gradients.default, (leaf(2, 5, 8), inverse, index))
    torch.library.opcheck(torch.ops.eokit.scatter_gradients.default, (leaf(2, 9, 8), inverse, index))


@compiled
def test_the_kernel_refuses_an_index_by_the_name_of_its_shape():
    with pytest.raises(RuntimeError, match=r"index: expected contiguous int64 \(B, K\)"):
        torch.ops.eokit.invert_index(choose(2, 9, 5).int(), 9)


def test_the_reference_passes_gradcheck():
    index = choose(2, 4, 2)
    visible, mask_token, pos = (leaf(*shape, dtype=torch.float64) for shape in ((2, 2, 3), (3,), (4, 3)))
    assert torch.autograd.gradcheck(lambda v, m, p: scatter_tokens(v, index, 4, m, p), (visible, mask_token, pos))
    x = leaf(2, 4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, p: gather_tokens(x, index, p), (x, pos))


def test_it_is_captured_as_one_graph():
    x, index, pos = leaf(2, 9, 8), choose(2, 9, 5), leaf(9, 8)
    run = torch.compile(lambda *given: gather_tokens(*given), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(x, index, pos), gather_tokens(x, index, pos))


X, I, M = torch.zeros(2, 5, 4), torch.tensor([[0, 1], [2, 3]]), torch.zeros(4)  # noqa: E741


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: gather_tokens(X[0], I), ["x is torch.float32 (5, 4)", "(B, L, D)"]),
        (lambda: gather_tokens(X.int(), I), ["x is torch.int32", "floating"]),
        (lambda: gather_tokens(X.transpose(1, 2), I), ["x has strides", "contiguous last dimension"]),
        (lambda: gather_tokens(X, I.float()), ["index is torch.float32", "integers"]),
        (lambda: gather_tokens(X, I[:1]), ["index has shape (1, 2)", "(2, N)"]),
        (lambda: gather_tokens(X, I + 2), ["index", "5", "outside 0..4"]),
        (lambda: gather_tokens(X, I - 1), ["index", "-1", "outside 0..4"]),
        (lambda: gather_tokens(X, torch.zeros(2, 2).long()), ["index: 0 comes twice in sample 0"]),
        (lambda: gather_tokens(X, torch.tensor([[0, 1], [2, 2]])), ["index: 2 comes twice in sample 1"]),
        (
            lambda: gather_tokens(X, torch.tensor([0, 2, 2]), offsets=torch.tensor([0, 1, 3])),
            ["index: 2 comes twice in sample 1"],
        ),
        (lambda: gather_tokens(X, I, X[0, :3]), ["pos is torch.float32 (3, 4)", "(5, 4) or (2, 5, 4)"]),
        (lambda: gather_tokens(X, I[0], offsets=torch.tensor([0, 1])), ["offsets is torch.int64 (2,)", "(3,)"]),
        (lambda: gather_tokens(X, I[0], offsets=torch.tensor([0, 1, 3])), ["offsets are [0, 1, 3]", "0 to 2"]),
        (lambda: gather_tokens(X, I[0] + 4, offsets=torch.tensor([0, 1, 2])), ["index", "5", "outside 0..4"]),
        (lambda: gather_tokens(X, I.to(torch.complex64)), ["index is torch.complex64", "integers"]),
        (lambda: gather_tokens(X, I.tolist()), ["index is of type list", "tensor"]),
        (lambda: scatter_tokens(X[0], I[0], 9, M, offsets=torch.tensor(2)), ["offsets is torch.int64 ()", "(B + 1,)"]),
        (lambda: scatter_tokens(X[0], I[0], 9, M, offsets=I[0, :0]), ["offsets is torch.int64 (0,)", "(B + 1,)"]),
        (lambda: scatter_tokens(X[:, :2], I, "6", M), ["length is '6'", "whole number"]),
        (lambda: scatter_tokens(X[:, :2], I, 6.5, M), ["length is 6.5", "whole number"]),
        (lambda: scatter_tokens(X, I, 9, M), ["index has shape (2, 2)", "(2, 5)"]),
        (lambda: scatter_tokens(X[:, :2], I, 3, M), ["index", "3", "outside 0..2"]),
        (lambda: scatter_tokens(X[:, :2], I, -1, M), ["length is -1"]),
        (lambda: scatter_tokens(X[:, :2], I, 9, M[:3]), ["mask_token is torch.float32 (3,)", "(4,)"]),
    ],
)
def test_a_wrong_argument_is_named(run, words):
    with pytest.raises(ArgumentError) as caught:
        run()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert "/" not in str(caught.value), "a path of the machine that built it"


@compiled
def test_more_tokens_than_memory_can_hold_are_not_blamed_on_the_index():
    with pytest.raises(ArgumentError, match="length: no memory"):
        scatter_tokens(X[:, :2], torch.tensor([[0, 1], [1, 0]]), 2**60, X[0, 0])

"""Results that are written past the caches have the bits of the same call in parts, which go through them."""

import pytest
import torch

from eokit.ops import attention, gather_tokens, scatter_tokens, temporal_pool
from tests.ops.conftest import compiled
from tests.ops.row_cases import choose, make_series

INSTRUCTION_SETS = pytest.importorskip("eokit._native", reason="not built").instruction_sets()
pytestmark = [compiled, pytest.mark.usefixtures("poisoned", "threads")]
LARGE = 6 << 20
"""Bytes of results from which on the kernels leave the caches alone: `past_caches` in csrc/cpu/tensors.h."""
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=[2, 7])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def with_gradients(function, leaves, grad):
    leaves = [x.detach().requires_grad_() for x in leaves]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, grad)


def bytes_of(x):
    return x.numel() * x.element_size()


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize(
    ("queries", "keys", "dim", "positions", "part"),
    [(17, 17, 64, 384, 32), (17, 17, 40, 384, 32), (36, 36, 64, 96, 16), (150, 400, 64, 48, 3)],
    ids=["whole cache lines", "parts of cache lines", "a product of few queries", "panels and blocks"],
)
def test_attention_has_the_bits_of_its_parts(instruction_set, name, dtype, queries, keys, dim, positions, part):
    instruction_set(name)
    positions *= 2 if dtype in HALVES else 1
    lengths = (queries, keys, keys, queries)
    *leaves, grad = (torch.randn(1, length, positions, 8, dim).to(dtype).transpose(1, 2) for length in lengths)
    mask = torch.rand(1, positions, keys) < 0.7
    mask[:, 5] = False
    large = with_gradients(lambda q, k, v: attention(q, k, v, key_mask=mask), leaves, grad)
    assert bytes_of(large[0]) >= LARGE
    parts = []
    for some in torch.arange(positions).split(part):
        which = slice(int(some[0]), int(some[-1]) + 1)
        run = lambda q, k, v, which=which: attention(q, k, v, key_mask=mask[:, which])  # noqa: E731
        parts.append(with_gradients(run, [x[:, which] for x in leaves], grad[:, which]))
        assert sum(bytes_of(x) for x in parts[-1][1:]) < LARGE
    for ours, pieces in zip(large, zip(*parts, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(pieces, 1))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("dim", [96, 84], ids=["whole cache lines", "parts of cache lines"])
@pytest.mark.parametrize("placed", [True, False])
def test_tokens_have_the_bits_of_their_parts(instruction_set, name, dtype, dim, placed):
    """The gradient of what was not gathered, rows of zeros, included."""
    instruction_set(name)
    batch, length, count = (64 if dtype in HALVES else 32), 1024, 700
    index = choose(batch, length, count)
    x, visible, grad, grid = (torch.randn(batch, n, dim).to(dtype) for n in (length, count, count, length))
    mask_token, pos = torch.randn(dim).to(dtype), (torch.randn(length, dim).to(dtype) if placed else None)

    def run(some):
        gathered = with_gradients(lambda x: gather_tokens(x, index[some], pos), [x[some]], grad[some])
        scatter = lambda visible: scatter_tokens(visible, index[some], length, mask_token, pos)  # noqa: E731
        return *gathered, *with_gradients(scatter, [visible[some]], grid[some])

    large = run(slice(None))
    assert all(bytes_of(one) >= LARGE for one in large)
    parts = [run(slice(first, first + 8)) for first in range(0, batch, 8)]
    assert all(bytes_of(one) < LARGE for one in parts[0])
    for ours, pieces in zip(large, zip(*parts, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(pieces))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_pooling_has_the_bits_of_its_parts(instruction_set, name, dtype):
    instruction_set(name)
    pixels = 2048 if dtype in HALVES else 1024
    x, queries, positions, mask = make_series(1, pixels, 17, 4, 24, torch.float32, mask="pixels")
    x, grad = x.to(dtype), torch.randn(1, pixels, 96).to(dtype)

    def run(some):
        pool = lambda x: temporal_pool(x, queries, positions, key_mask=mask[:, some])  # noqa: E731
        return with_gradients(pool, [x[:, some]], grad[:, some])

    large = run(slice(None))
    assert bytes_of(large[1]) >= LARGE
    parts = [run(slice(first, first + 256)) for first in range(0, pixels, 256)]
    for ours, pieces in zip(large, zip(*parts, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(pieces, 1))

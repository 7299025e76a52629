"""The contrastive losses on a GPU, tile by tile: as exact as plain torch, the same bits, one graph, no waiting."""

import pytest
import torch

from eokit.ops import info_nce, use_backend
from eokit.ops.losses import streamed
from tests.gpu.support import captured, named, skip_if_long, skip_without
from tests.ops.loss_cases import LOSSES, in_tiles, make_loss, run_loss
from tests.ops.row_cases import assert_as_exact_as

TRITON = named("triton")
every_backend = pytest.mark.parametrize("backend", [TRITON, named("sdpa")])
"""Plain torch goes through the same tiles under "sdpa"."""
every_loss = pytest.mark.parametrize("loss", LOSSES)


@every_backend
@every_loss
@pytest.mark.parametrize("size", [(17, 143), (257, 300), (2049, 4500)], ids=str)
def test_losses_and_gradients(backend, loss, size, poisoned):
    skip_if_long(size[0] * size[1])
    torch.manual_seed(0)
    case = make_loss(loss, *size)
    with in_tiles():
        ours = run_loss(backend, torch.float32, case)
    assert_as_exact_as(ours, *(run_loss("reference", dtype, case) for dtype in (torch.float32, torch.float64)))


@every_backend
@every_loss
def test_many_small_tiles_and_whole_ones_agree(backend, loss):
    case, found = make_loss(loss, 40, 50), []
    for size in ((7, 13), (64, 64)):
        with in_tiles(size):
            found.append(run_loss(backend, torch.float32, case))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@every_loss
@pytest.mark.parametrize("backend", [TRITON])
def test_the_same_bits_twice(backend, loss):
    """With the configuration that deterministic algorithms take; tuned, another process may take another."""
    case = make_loss(loss, 300, 400)
    with in_tiles((64, 100)):
        one, other = (run_loss(backend, torch.float32, case) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@every_loss
@pytest.mark.parametrize("backend", [TRITON])
def test_a_captured_graph_has_the_losses_of_new_values(backend, loss):
    """Nothing is asked of the GPU on the way: a capture would fail."""
    leaves, run = make_loss(loss, 40, 50)
    leaves = [one.float().requires_grad_() for one in leaves]

    def both():
        out = run(*leaves)
        return out, *torch.autograd.grad(out, leaves)

    with use_backend(backend), in_tiles((16, 32)):
        found, replay = captured(both)
        with torch.no_grad():
            for x in leaves:
                x.copy_(x.flip(0))
        replay()
        for one, other in zip(found, both(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@every_loss
@pytest.mark.parametrize("backend", [TRITON])
def test_they_compile_as_one_graph(backend, loss):
    leaves, run = make_loss(loss, 9, 8)
    leaves = [one.float().requires_grad_() for one in leaves]
    torch.set_default_device(None)  # a mode of torch that Dynamo does not trace through
    torch.compiler.reset()
    with use_backend(backend), in_tiles((5, 7)):
        outs = [torch.compile(run, fullgraph=True)(*leaves), run(*leaves)]
        results = [(out, *torch.autograd.grad(out, leaves)) for out in outs]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", [TRITON])
def test_the_ops_pass_opcheck(backend):
    a, b = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    ids, positives = torch.arange(9) // 2, torch.eye(9, dtype=torch.bool)
    checks = {"rtol": 1e-3, "atol": 1e-3}
    with use_backend(backend), in_tiles((5, 7)):
        for given in ((positives, None, None, None, None, 0.1, False), (None, ids, ids, ids % 2, ids % 2, 0.1, True)):
            torch.library.opcheck(streamed.nce_forward, (a, b, *given), **checks)
            kept = [x.detach() for x in streamed.nce_forward(a, b, *given)]
            torch.library.opcheck(streamed.nce_backward, (*kept, a.detach(), b.detach(), *given), **checks)
        given = a, b, a.detach(), b.detach(), torch.zeros(9), 0.1, 0.04
        torch.library.opcheck(streamed.dino_forward, given, **checks)


@pytest.mark.parametrize("backend", [TRITON])
def test_a_matrix_of_more_than_two_to_the_31_positives(backend):
    rows, columns = 2100, 1_100_000
    assert rows * columns > 2**31
    skip_without(4 * rows * columns)
    a, b = torch.randn(rows, 8), torch.randn(columns, 8)
    positives = torch.zeros(rows, columns, dtype=torch.bool)
    positives[-1, -1] = True
    with use_backend(backend):
        loss = info_nce(a, b, positives=positives)
    exact = info_nce(a[-1:].double(), b.double(), positives=positives[-1:])
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-4)

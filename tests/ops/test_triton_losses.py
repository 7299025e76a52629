"""The Triton kernels of the losses in Triton's interpreter, in a process of their own; see test_triton.py."""

from itertools import product

import pytest
import torch

from eokit.ops import info_nce, library, placement, use_backend
from eokit.ops.losses import streamed, tiles
from eokit.ops.losses.tiles import INFINITY, Pairs
from tests.ops.conftest import assert_passes_interpreted
from tests.ops.loss_cases import (
    KINDS,
    LOSSES,
    SIZES,
    assert_exact_pass,
    assert_law,
    halves,
    in_tiles,
    make_loss,
    passes_of,
    run_loss,
    slopes,
    sums,
)
from tests.ops.row_cases import assert_as_exact_as

installed = pytest.mark.skipif(not library.TRITON, reason="triton is not installed: pip install 'eokit[triton]'")
interpreted = pytest.mark.skipif(not library.INTERPRETED, reason="runs in the process with TRITON_INTERPRET=1")
every_size = pytest.mark.parametrize(("rows", "columns", "scale"), SIZES)
WAYS = ((tiles, torch.float64), (tiles, torch.float32), ("triton", torch.float32))
"""What is true, what is plain torch, and what is tested."""


@installed
@pytest.mark.slow
@pytest.mark.skipif(library.INTERPRETED, reason="this is that process")
def test_the_interpreter_agrees_with_torch():
    assert_passes_interpreted(__file__)


@interpreted
@every_size
@pytest.mark.parametrize(("kind", "inside"), list(product(KINDS, (False, True))))
def test_sums_and_slopes_are_as_exact_as_torch_and_0_without_positives(kind, inside, scale, rows, columns, poisoned):
    assert_exact_pass("triton", kind, inside, rows, columns, scale)


@interpreted
@every_size
def test_the_sums_and_slopes_of_two_softmaxes_are_as_exact_as_torch(scale, rows, columns, poisoned):
    torch.manual_seed(rows)
    scores, targets = torch.randn(2, rows, columns) * scale
    center = torch.randn(columns)

    def run(module, dtype):
        both, middle = [x.to(dtype) for x in (scores, targets)], center.to(dtype)
        state = torch.zeros(5, rows, dtype=dtype)
        state[0] = state[2] = -INFINITY
        for c in halves(columns):
            passes_of(module).dino_add(*(x[:, c].clone() for x in both), middle[c], state)
        return [tiles.log_sum(state[:2]), tiles.log_sum(state[2:4]), state[4] / state[3]]

    exact, theirs, ours = (run(*way) for way in WAYS)
    assert_law(ours, theirs, exact)

    def slopes(module, dtype):
        given = [x.to(dtype) for x in (scores.clone(), targets.clone(), center, *exact[:2])]
        return [passes_of(module).dino_slopes(*given)]

    exact, theirs, ours = (slopes(*way) for way in WAYS)
    assert_law(ours, theirs, exact)


@interpreted
@pytest.mark.parametrize("add", ["nce", "dino"])
def test_a_state_so_far_fades_as_higher_logits_come(add):
    """And not as lower ones come: the second tile is 3 above the first, then 3 below."""
    from eokit.ops.losses import triton

    for rise in (3.0, -3.0):
        first, second = torch.randn(4, 19), torch.randn(4, 19) + rise
        state = torch.zeros(5, 4)
        state[0] = state[2] = -INFINITY
        for tile in (first, second):
            if add == "nce":
                triton.nce_add(tile.clone(), Pairs(), state[:4], True)
            else:
                triton.dino_add(tile.clone(), tile.clone(), torch.zeros(19), state)
        both = torch.cat([first, second], 1)
        torch.testing.assert_close(tiles.log_sum(state[:2]), both.logsumexp(1))
        if add == "dino":
            torch.testing.assert_close(state[4] / state[3], (both.softmax(1) * both).sum(1))


@interpreted
@pytest.mark.parametrize("where", [0, 7, 18])
def test_a_logit_that_is_not_a_number_is_not_lost(where):
    scores = torch.randn(2, 19)
    scores[1, where] = float("nan")
    assert sums("triton", scores, Pairs(), True)[0].isnan().tolist() == [False, True]
    assert torch.equal(slopes("triton", scores, Pairs(), [torch.zeros(2)] * 2, True).isnan(), scores.isnan())


@interpreted
@pytest.mark.parametrize("rows", [2, 17, 143, 257])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_as_exact_as_the_reference(loss, rows, poisoned):
    torch.manual_seed(rows)
    case = make_loss(loss, rows, 150)
    with in_tiles((100, 96)):
        ours = run_loss("triton", torch.float32, case)
    theirs, exact = (run_loss("reference", dtype, case) for dtype in (torch.float32, torch.float64))
    assert_as_exact_as(ours, theirs, exact)


@interpreted
@pytest.mark.parametrize("loss", LOSSES)
def test_a_single_row_has_the_loss_of_the_reference(loss):
    """It may be 0, of which no share of an error can be taken."""
    case = make_loss(loss, 1, 3)
    with in_tiles():
        ours = run_loss("triton", torch.float32, case)
    for one, exact in zip(ours, run_loss("reference", torch.float64, case), strict=True):
        torch.testing.assert_close(one.double(), exact, rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize("loss", LOSSES)
def test_other_tiles_give_the_same(loss):
    case = make_loss(loss, 40, 50)
    with in_tiles((7, 13)):
        ours = run_loss("triton", torch.float32, case)
    with in_tiles((64, 64)):
        whole = run_loss("triton", torch.float32, case)
    for one, other in zip(ours, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize("inside", [False, True])
def test_the_ops_pass_opcheck(inside):
    a, b, ids = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True), torch.arange(9) // 2
    given = (None, ids, ids, ids % 2, ids % 2) if inside else (torch.eye(9, dtype=torch.bool), None, None, None, None)
    torch.library.opcheck(streamed.nce_forward, (a, b, *given, 0.1, inside))
    torch.library.opcheck(streamed.dino_forward, (a, b, a.detach(), b.detach(), torch.zeros(9), 0.1, 0.04))


@interpreted
def test_float64_and_other_backends_are_left_to_torch(monkeypatch):
    from eokit.ops.losses import triton

    taken, add = [], triton.nce_add
    monkeypatch.setattr(triton, "nce_add", lambda scores, *rest: taken.append(scores.dtype) or add(scores, *rest))
    for backend, dtype in (("triton", torch.float64), ("sdpa", torch.float32), ("triton", torch.float32)):
        with use_backend(backend), in_tiles((8, 8)):
            info_nce(*torch.randn(2, 5, 3).to(dtype))
    assert taken == [torch.float32]


@installed
def test_on_a_gpu_the_losses_are_placed_in_triton_on_request():
    names = ("info_nce", "mil_nce", "dino_cross_entropy")
    for backend, where in (("triton", "triton"), (None, "streamed"), ("cuda", "streamed")):
        if backend == "cuda" and not library.CUDA:
            continue
        with use_backend(backend):
            assert {placement("cuda")[name] for name in names} == {where}

"""The Triton kernels of the losses in Triton's interpreter, in a process of their own; see test_triton.py."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch

from eokit.ops import info_nce, library, placement, use_backend
from eokit.ops.losses import streamed, tiles
from eokit.ops.losses.tiles import INFINITY, Pairs
from tests.ops.loss_cases import LOSSES, in_tiles, make_loss, run_loss
from tests.ops.row_cases import assert_as_exact_as

installed = pytest.mark.skipif(not library.TRITON, reason="triton is not installed: pip install 'eokit[triton]'")
interpreted = pytest.mark.skipif(not library.INTERPRETED, reason="runs in the process with TRITON_INTERPRET=1")
KINDS = ("nothing", "matrix", "turned matrix", "groups", "sorted groups", "blocks", "groups and blocks")
HUGE = 1e4
SIZES = [(1, 1, 1.0), (17, 143, 1.0), (17, 143, HUGE), (143, 17, 1.0), (257, 257, 1.0), (5, 2049, HUGE)]
every_size = pytest.mark.parametrize(("rows", "columns", "scale"), SIZES)
WAYS = ((tiles, torch.float64), (tiles, torch.float32), ("triton", torch.float32))
"""What is true, what is plain torch, and what is tested."""


@installed
@pytest.mark.slow
@pytest.mark.skipif(library.INTERPRETED, reason="this is that process")
def test_the_interpreter_agrees_with_torch():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "EOKIT_BACKEND": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


def passes_of(module):
    """The module itself, or that of the kernels, which is not to be imported where Triton is not."""
    if module == "triton":
        from eokit.ops.losses import triton

        return triton
    return module


def make_pairs(kind, rows, columns):
    """Each row has positives with some columns and is no candidate with others; the first row has neither."""
    pairs = {}
    if "matrix" in kind:
        matrix = torch.rand(rows, columns) < 0.3
        matrix[0] = False
        pairs["positives"] = matrix.T.contiguous().T if "turned" in kind else matrix
    if "groups" in kind:
        ids = [torch.randint(7, (n,)) for n in (rows, columns)]
        pairs["group_rows"], pairs["group_columns"] = (x.sort()[0] if "sorted" in kind else x for x in ids)
        pairs["group_rows"][0] = -1
    if "blocks" in kind:
        pairs["block_rows"], pairs["block_columns"] = (torch.randint(3, (n,)) for n in (rows, columns))
        pairs["block_columns"][columns // 2 :] = 2
        pairs["block_rows"][-1] = 2  # no candidate in the second half
    return Pairs(**pairs)


def cut(pairs, columns):
    return Pairs(
        None if pairs.positives is None else pairs.positives[:, columns],
        *(one if one is None or number % 2 == 0 else one[columns] for number, one in enumerate(pairs[1:])),
    )


def halves(columns):
    return [one for one in (slice(0, columns // 3), slice(columns // 3, columns)) if one.start < one.stop]


def added(module, scores, pairs, inside):
    """The state (4, rows) after two tiles of different widths."""
    state = scores.new_zeros(4, len(scores))
    state[: 3 if inside else 1 : 2] = -INFINITY
    for columns in halves(scores.shape[1]):
        passes_of(module).nce_add(scores[:, columns].clone(), cut(pairs, columns), state, inside)
    return state


def results(state, inside):
    """What the losses take of a state: log sums, or the sum and the number of positives."""
    rest = [tiles.log_sum(state[2:])] if inside else list(state[2:])
    return [tiles.log_sum(state[:2]), *rest]


def assert_law(ours, theirs, exact):
    """As `assert_as_exact_as`, and infinite where float64 is."""
    for a, truth in zip(ours, exact, strict=True):
        assert torch.equal(a.isneginf(), truth.isneginf())
    assert_as_exact_as(*([x.masked_fill(x.isneginf(), 0) for x in one] for one in (ours, theirs, exact)))


@interpreted
@every_size
@pytest.mark.parametrize(("kind", "inside"), list(product(KINDS, (False, True))))
def test_the_sums_of_candidates_and_positives_are_as_exact_as_torch(kind, inside, scale, rows, columns, poisoned):
    torch.manual_seed(rows)
    scores, pairs = torch.randn(rows, columns) * scale, make_pairs(kind, rows, columns)
    exact, theirs, ours = (results(added(module, scores.to(dtype), pairs, inside), inside) for module, dtype in WAYS)
    assert_law(ours, theirs, exact)


@interpreted
@every_size
@pytest.mark.parametrize(("kind", "inside"), list(product(KINDS, (False, True))))
def test_the_slopes_are_as_exact_as_torch_and_0_without_positives(kind, inside, scale, rows, columns, poisoned):
    torch.manual_seed(rows)
    scores, pairs = torch.randn(rows, columns) * scale, make_pairs(kind, rows, columns)
    state = added(tiles, scores.double(), pairs, inside)
    sums, others = tiles.log_sum(state[:2]), results(state, inside)[-1]
    used = others > (-INFINITY if inside else 0)
    sums, others = (torch.where(used, x, INFINITY) for x in (sums, others))

    def slopes(module, dtype):
        tile, given = scores.to(dtype), (sums.to(dtype), others.to(dtype))
        found = [
            passes_of(module).nce_slopes(tile[:, c].clone(), cut(pairs, c), *given, inside) for c in halves(columns)
        ]
        return [torch.cat(found, 1)]

    exact, theirs, ours = (slopes(*way) for way in WAYS)
    assert_law(ours, theirs, exact)
    assert (ours[0][~used] == 0).all()


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
    with use_backend(None):
        assert {placement("cpu")[name] for name in names} == {"streamed"}

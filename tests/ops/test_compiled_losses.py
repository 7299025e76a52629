"""What the compiled library does to a tile of logits is as exact as torch, on every instruction set."""

from itertools import product

import pytest
import torch

from eokit.ops import info_nce, library, mil_nce, placement, use_backend
from eokit.ops.losses import compiled, tiles
from tests.ops.loss_cases import (
    KINDS,
    LOSSES,
    SIZES,
    assert_exact_pass,
    in_tiles,
    make_loss,
    make_pairs,
    run_loss,
    slopes,
    sums,
)
from tests.ops.row_cases import assert_as_exact_as

pytestmark = pytest.mark.skipif(not library.COMPILED, reason="the compiled library is not there")
every_set = pytest.mark.parametrize("instruction_set", ["portable", "avx2", "avx512"])


@pytest.fixture(autouse=True)
def chosen(request):
    """The instruction set of the test; left out where this CPU has it not."""
    wanted = (
        request.node.callspec.params.get("instruction_set", "auto") if hasattr(request.node, "callspec") else "auto"
    )
    try:
        torch.ops.eokit.select_instruction_set(wanted)
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    yield
    torch.ops.eokit.select_instruction_set("auto")


@every_set
@pytest.mark.parametrize(("rows", "columns", "scale"), SIZES)
@pytest.mark.parametrize(("kind", "inside"), list(product(KINDS, (False, True))))
def test_sums_and_slopes_are_as_exact_as_torch(kind, inside, rows, columns, scale, instruction_set, poisoned):
    assert_exact_pass(compiled, kind, inside, rows, columns, scale)


@pytest.mark.parametrize("rows", [2, 17, 143, 257])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_and_gradients_are_as_exact_as_the_reference(loss, rows, poisoned):
    torch.manual_seed(rows)
    case = make_loss(loss, rows, 150)
    with in_tiles((100, 96)):
        ours = run_loss(None, torch.float32, case)
    assert_as_exact_as(ours, *(run_loss("reference", dtype, case) for dtype in (torch.float32, torch.float64)))


@every_set
@pytest.mark.parametrize("where", [0, 3, 16, 18])
def test_a_logit_that_is_not_a_number_is_not_lost(where, instruction_set):
    scores = torch.randn(2, 19)
    scores[1, where] = float("nan")
    pairs = make_pairs("nothing", 2, 19)
    total = sums(compiled, scores, pairs, True)[0]
    assert total.isnan().tolist() == [False, True]
    found = slopes(compiled, scores, pairs, [torch.zeros(2)] * 2, True)
    assert torch.equal(found.isnan(), scores.isnan())


def test_they_are_called_where_they_are_to_be(monkeypatch):
    taken, add = [], compiled.nce_add
    monkeypatch.setattr(compiled, "nce_add", lambda scores, *rest: taken.append(scores.dtype) or add(scores, *rest))
    for backend, dtype in (("sdpa", torch.float32), (None, torch.float64), (None, torch.float32)):
        with use_backend(backend), in_tiles((8, 8)):
            info_nce(*torch.randn(2, 5, 3).to(dtype))
    assert taken == [torch.float32]


def test_they_are_placed_there_but_for_prototypes():
    with use_backend(None):
        where = placement("cpu")
    assert [where[name] for name in ("info_nce", "mil_nce", "dino_cross_entropy")] == ["cpu", "cpu", "streamed"]


def test_ids_of_any_integers_are_taken():
    x, group = torch.randn(9, 4), torch.arange(9) // 2
    with in_tiles((4, 4)):
        assert torch.equal(mil_nce(x, group.to(torch.uint8)), mil_nce(x, group))


WRONG = {
    "scores": ("scores: expected contiguous float32", lambda x: x | {"scores": x["scores"].double()}),
    "strides": ("scores: expected contiguous float32", lambda x: x | {"scores": torch.zeros(7, 4).T}),
    "one id": ("group_rows: expected both ids", lambda x: x | {"group_columns": None}),
    "length": ("group_rows: expected contiguous int64", lambda x: x | {"group_rows": torch.zeros(5).long()}),
    "kind": ("block_columns: expected contiguous int64", lambda x: x | {"block_columns": torch.zeros(7).int()}),
    "sums": ("sums: expected contiguous float32", lambda x: x | {"sums": torch.zeros(3)}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_tensor_is_named(wrong):
    message, spoil = WRONG[wrong]
    ids = {name: torch.zeros(length).long() for name, length in zip(tiles.Pairs._fields[1:], (4, 7) * 2, strict=True)}
    given = spoil({"scores": torch.zeros(4, 7), **ids, "sums": torch.zeros(4), "others": torch.zeros(4)})
    with pytest.raises(RuntimeError, match=message):
        torch.ops.eokit.nce_slopes_(*given.values())
    state = [torch.zeros(4) for _ in range(4)]
    if wrong == "sums":
        message, state[0] = "highest: expected contiguous float32", torch.zeros(3)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.eokit.nce_add_(*list(given.values())[:5], *state)


def test_any_number_of_threads_gives_the_same_bits():
    """Of the passes: the products of a loss are the library's, and its to order."""
    torch.manual_seed(0)
    scores, ids = torch.randn(1000, 777), (torch.arange(1000) % 333, torch.arange(777) % 333)
    blocks = (torch.arange(1000) // 333, torch.arange(777) // 333)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            state, slopes = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0])[:, None].repeat(1, 1000), scores.clone()
            torch.ops.eokit.nce_add_(scores, *ids, *blocks, *state)
            torch.ops.eokit.nce_slopes_(slopes, *ids, *blocks, state[0].contiguous(), state[2].contiguous())
            found.append((state, slopes))
    finally:
        torch.set_num_threads(before)
    assert all(x.equal(y) for other in found[1:] for x, y in zip(other, found[0], strict=True))

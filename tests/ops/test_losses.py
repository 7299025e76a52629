"""The streamed losses equal their formulas over all logits, in value and gradient, whatever the tiles."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eokit.errors import ArgumentError
from eokit.ops import dino_cross_entropy, info_nce, mil_nce, use_backend
from eokit.ops.losses import reference, streamed, whole


@pytest.fixture(autouse=True, params=["tiles", "whole"])
def way(request, monkeypatch):
    """Tiles of a few numbers, so that every loss goes over several of them; or all logits in memory."""
    monkeypatch.setattr(whole, "MOST", 0 if request.param == "tiles" else 10**9)
    monkeypatch.setitem(streamed.TILE, "cpu", (5, 7))


def features(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def assert_same(ours, theirs, leaves):
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(loss * 3, leaves, allow_unused=True) for loss in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.floats(0.0, 1.0), st.integers(0, 99))
@example(3, 10, 1, 0.25, 10)  # three positives: a third in float32 is not one in float64
def test_info_nce_equals_its_formula(n, m, dim, share, seed):
    torch.manual_seed(seed)
    a, b, positives = features(n, dim), features(m, dim), torch.rand(n, m) < share
    ours = info_nce(a, b, positives=positives, temperature=0.3)
    assert_same(ours, reference.info_nce(a, b, positives, temperature=0.3), [a, b])


def test_without_positives_the_row_of_the_same_number_is_the_positive():
    a, b = features(12, 4), features(12, 4)
    expected = torch.nn.functional.cross_entropy(a @ b.T / 0.1, torch.arange(12))
    assert_same(info_nce(a, b), expected, [a, b])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 25), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_mil_nce_equals_its_formula(n, groups, blocks, seed):
    torch.manual_seed(seed)
    a, group, block = features(n, 6), torch.randint(groups, (n,)), torch.randint(blocks, (n,))
    ours = mil_nce(a, group, block=block, temperature=0.2)
    assert_same(ours, reference.mil_nce(a, group, block, temperature=0.2), [a])


def test_mil_nce_without_blocks_leaves_out_the_row_itself():
    a, group = features(9, 4), torch.arange(9) // 3
    assert_same(mil_nce(a, group), reference.mil_nce(a, group, torch.arange(9), temperature=0.1), [a])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_dino_cross_entropy_equals_its_formula(n, k, dim, centred, seed):
    torch.manual_seed(seed)
    given_ = features(n, dim), features(k, dim), features(n, 3), features(k, 3)
    center = torch.randn(k, dtype=torch.float64) if centred else torch.zeros(k, dtype=torch.float64)
    ours = dino_cross_entropy(*given_, center=center if centred else None, temperature=0.5, teacher_temperature=0.2)
    theirs = reference.dino_cross_entropy(*given_, center, temperature=0.5, teacher_temperature=0.2)
    assert_same(ours, theirs, given_[:2])
    assert torch.autograd.grad(ours, given_[2:], allow_unused=True) == (None, None)


def test_logits_of_thousands_do_not_overflow():
    a = torch.randn(20, 4) * 100
    assert info_nce(a, a, temperature=0.01).isfinite()
    assert mil_nce(a, torch.arange(20) // 2, temperature=0.01).isfinite()
    assert dino_cross_entropy(a, a, a, a, temperature=0.01).isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    torch.manual_seed(0)
    a, b = features(16, 8, dtype=dtype), features(16, 8, dtype=dtype)
    ours = info_nce(a, b)
    exact = info_nce(a.double(), b.double())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(ours, a)[0].dtype == dtype


def test_half_features_may_meet_float32_weights_as_autocast_makes_them():
    torch.manual_seed(0)
    student, prototypes = features(6, 8, dtype=torch.bfloat16), features(5, 8, dtype=torch.float32)
    loss = dino_cross_entropy(student, prototypes, student.detach(), prototypes.detach())
    exact = dino_cross_entropy(*(x.detach().float() for x in (student, prototypes, student, prototypes)))
    assert torch.equal(loss.detach(), exact)
    grads = torch.autograd.grad(loss + info_nce(student[:5], prototypes), (student, prototypes))
    assert [x.dtype for x in grads] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("inside", [False, True])
def test_the_ops_pass_opcheck(inside):
    a, b, ids = features(9, 4, dtype=torch.float32), features(9, 4, dtype=torch.float32), torch.arange(9) // 2
    block = torch.arange(9) if inside else None
    torch.library.opcheck(streamed.nce_forward, (a, b, None, ids, ids, block, block, 0.1, inside))
    _, sums, others = streamed.nce_forward(a, b, None, ids, ids, block, block, 0.1, inside)
    plain = [x.detach() for x in (torch.randn(9), sums, others, a, b)]
    torch.library.opcheck(streamed.nce_backward, (*plain, None, ids, ids, block, block, 0.1, inside))


def test_the_dino_ops_pass_opcheck():
    given_ = [features(*shape, dtype=torch.float32) for shape in ((9, 4), (8, 4), (9, 3), (8, 3), (8,))]
    given_[2:] = [x.detach() for x in given_[2:]]
    torch.library.opcheck(streamed.dino_forward, (*given_, 0.1, 0.04))
    _, *sums = streamed.dino_forward(*given_, 0.1, 0.04)
    plain = [x.detach() for x in (torch.randn(9), *sums, *given_)]
    torch.library.opcheck(streamed.dino_backward, (*plain, 0.1, 0.04))


@pytest.mark.parametrize("keep", [False, True])
def test_the_ops_over_all_logits_pass_opcheck(keep):
    a, b, ids = features(9, 4, dtype=torch.float32), features(9, 4, dtype=torch.float32), torch.arange(9) // 2
    if not keep:
        a, b = a.detach(), b.detach()
    positives = torch.eye(9, dtype=torch.bool)
    for given_ in (
        (None, None, None, 0.1, False),
        (positives, None, None, 0.1, False),
        (None, ids, ids % 2, 0.1, True),
    ):
        torch.library.opcheck(whole.nce_whole, (a, b, *given_, keep))
    torch.library.opcheck(whole.dino_whole, (a, b, a.detach(), b.detach(), torch.zeros(9), 0.1, 0.04, keep))
    plain = torch.randn(9), torch.randn(9, 9), a.detach(), b.detach()
    torch.library.opcheck(whole.whole_backward, (*plain, 0.1))


def test_rows_without_positives_get_no_gradient_however_large_their_logits():
    a = (100 * torch.eye(4)).requires_grad_()
    positives = torch.tensor([[False] * 4, [True, False, False, False], [False] * 4, [False] * 4])
    (grad,) = torch.autograd.grad(info_nce(a, 10 * torch.ones(4, 4), positives=positives, temperature=0.01), a)
    assert grad.isfinite().all()
    assert (grad[[0, 2, 3]] == 0).all()
    (grad,) = torch.autograd.grad(mil_nce(a, torch.arange(4), temperature=0.01) + mil_nce(a, torch.arange(4) // 2), a)
    assert grad.isfinite().all()
    one = a.detach()[:1].requires_grad_()
    assert (torch.autograd.grad(mil_nce(one, torch.arange(1)), one)[0] == 0).all(), "no candidates at all"


@pytest.mark.parametrize("loss", ["info", "mil", "dino"])
def test_the_formula_passes_gradcheck(loss):
    a, b = features(5, 3), features(5, 3)
    ids = torch.tensor([0, 0, 1, 1, 2])
    run = {
        "info": lambda a, b: info_nce(a, b),
        "mil": lambda a, b: mil_nce(a + b, ids),
        "dino": lambda a, b: dino_cross_entropy(a, b, a.detach(), b.detach(), teacher_temperature=0.5),
    }[loss]
    if loss == "dino":  # the teacher must stand still while a and b are moved
        teacher = a.detach().clone(), b.detach().clone()
        run = lambda a, b: dino_cross_entropy(a, b, *teacher, teacher_temperature=0.5)  # noqa: E731
    assert torch.autograd.gradcheck(run, (a, b))


def test_logits_are_never_all_in_memory(monkeypatch):
    """The largest tensor made on the way is a tile."""
    a = torch.randn(1024, 8, requires_grad=True)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in tree_leaves(out):
                largest = max(largest, one.numel() if isinstance(one, torch.Tensor) else 0)
            return out

    monkeypatch.setitem(streamed.TILE, "cpu", (64, 128))
    monkeypatch.setattr(whole, "MOST", 64 * 128)
    with Watch(), use_backend(None):
        mil_nce(a, torch.arange(1024) // 2).backward()
    assert largest <= 64 * 128


A = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: info_nce(A[0], A), ["a is", "(3,)", "(rows, D)"]),
        (lambda: info_nce(A, A[:, :2]), ["b has 2 features", "3 of a"]),
        (lambda: info_nce(A, A[:3]), ["b has 3 rows", "4 of a"]),
        (lambda: info_nce(A, A.double()), ["b is torch.float64", "torch.float32"]),
        (lambda: info_nce(A, A, positives=torch.ones(4, 4)), ["positives is torch.float32", "torch.bool"]),
        (lambda: info_nce(A, A, temperature=0.0), ["temperature is 0.0", "above 0"]),
        (lambda: mil_nce(A, torch.zeros(3, dtype=torch.long)), ["group is", "(4,)"]),
        (lambda: info_nce(A, A, temperature="a"), ["temperature is of type str", "number"]),
        (lambda: info_nce(A, A, temperature=torch.tensor(0.1)), ["temperature is of type Tensor", "number"]),
        (lambda: mil_nce(A, torch.zeros(4)), ["group is torch.float32", "integers"]),
        (lambda: mil_nce(A, [0, 0, 1, 1]), ["group is of type list", "tensor"]),
        (lambda: dino_cross_entropy(A, A, A[:2], A), ["teacher has 2 rows", "4 of student"]),
        (lambda: dino_cross_entropy(A, A, A, A, center=A), ["center is", "(4, 3)", "(4,)"]),
        (lambda: dino_cross_entropy(A, A[:0], A, A[:0]), ["prototypes", "not 0"]),
    ],
)
def test_a_wrong_argument_is_named(run, words):
    with pytest.raises(ArgumentError) as caught:
        run()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)

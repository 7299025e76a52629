"""What every public op promises beyond its formula, on one set of small inputs.

One graph, any number of threads, poisoned memory, empty inputs; autocast stays outside; a tensor on another device is
refused; a second derivative is right, or refused, as is a forward one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eokit import ops
from eokit.errors import ArgumentError, UsageError
from eokit.ops import (
    attention,
    dino_cross_entropy,
    gather_tokens,
    info_nce,
    library,
    mil_nce,
    row_mlp,
    scatter_tokens,
    temporal_pool,
    use_backend,
)
from tests.ops.conftest import compiled

INDEX = torch.tensor([[4, 0, 2], [1, 3, 0]])
OFFSETS = torch.tensor([0, 2, 6])
MASK = torch.tensor([[True, False, True, True], [False, True, True, False]])[:, None]


@dataclass(frozen=True)
class Op:
    """A call of a public op on its leaves: float32 tensors of `shapes`, by name, that all have a gradient."""

    public: str
    run: Callable[..., Tensor]
    shapes: dict[str, tuple[int, ...]]

    def leaves(self, **changes: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(0)
        drawn = {name: torch.randn(shape).requires_grad_() for name, shape in self.shapes.items()}
        return drawn | changes

    def results(self, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
        """The output, and the gradient of every leaf."""
        out = self.run(**leaves)
        grads = torch.autograd.grad(out.square().sum(), list(leaves.values()))
        return {"out": out.detach()} | {f"grad_{name}": x for name, x in zip(leaves, grads, strict=True)}


def mlp(x, weight, bias, gain, shift):
    return row_mlp(x, [(weight, bias, gain, shift)], groups=2)


QKV = {"q": (2, 1, 4, 2, 8), "k": (2, 1, 4, 2, 8), "v": (2, 1, 4, 2, 8)}
PAIR = {"a": (6, 4), "b": (6, 4)}
OPS = {
    "attention": Op("attention", attention, QKV),
    "attention, mask and bias": Op(
        "attention", lambda q, k, v, bias: attention(q, k, v, key_mask=MASK, bias=bias), QKV | {"bias": (2, 4, 4)}
    ),
    "gather": Op("gather_tokens", lambda x, pos: gather_tokens(x, INDEX, pos), {"x": (2, 5, 8), "pos": (5, 8)}),
    "gather, ragged": Op(
        "gather_tokens",
        lambda x, pos: gather_tokens(x, INDEX.flatten(), pos, offsets=OFFSETS),
        {"x": (2, 5, 8), "pos": (5, 8)},
    ),
    "scatter": Op(
        "scatter_tokens",
        lambda visible, mask_token, pos: scatter_tokens(visible, INDEX, 5, mask_token, pos),
        {"visible": (2, 3, 8), "mask_token": (8,), "pos": (5, 8)},
    ),
    "pool": Op(
        "temporal_pool",
        lambda x, queries: temporal_pool(x, queries, torch.ones(2, 4, 4), key_mask=MASK),
        {"x": (2, 3, 4, 8), "queries": (2, 8)},
    ),
    "row_mlp": Op("row_mlp", mlp, {"x": (7, 4), "weight": (8, 4), "bias": (8,), "gain": (8,), "shift": (8,)}),
    "info_nce": Op("info_nce", info_nce, PAIR),
    "info_nce, positives": Op(
        "info_nce", lambda a, b: info_nce(a, b, positives=torch.eye(6, dtype=torch.bool).roll(1, 1)), PAIR
    ),
    "mil_nce": Op("mil_nce", lambda x: mil_nce(x, torch.arange(6) // 2, block=torch.arange(6) % 2), {"x": (6, 4)}),
    "dino": Op(
        "dino_cross_entropy",
        lambda student, prototypes: dino_cross_entropy(student, prototypes, torch.ones(6, 3), torch.eye(5, 3)),
        {"student": (6, 4), "prototypes": (5, 4)},
    ),
}
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
KEEPS_FLOAT32 = {name: op for name, op in OPS.items() if op.public != "attention"}


def test_every_public_op_is_held_to_the_contract():
    assert {op.public for op in OPS.values()} == set(library.OPS) <= set(ops.__all__)


@pytest.mark.parametrize("op", KEEPS_FLOAT32.values(), ids=KEEPS_FLOAT32.keys())
def test_autocast_does_not_reach_inside(op):
    """Attention alone casts its inputs, as torch's does."""
    expected = op.run(**op.leaves())
    with torch.autocast("cpu", torch.bfloat16):
        out = op.run(**op.leaves())
    assert torch.equal(out, expected)


@compiled
@pytest.mark.parametrize("op", KEEPS_FLOAT32.values(), ids=KEEPS_FLOAT32.keys())
def test_autocast_does_not_reach_into_gradients_that_are_made_inside_it(op):
    expected = op.results(op.leaves())
    with torch.autocast("cpu", torch.bfloat16):
        inside = op.results(op.leaves())
    for name, x in inside.items():
        assert torch.equal(x, expected[name]), name


@pytest.mark.parametrize("name", ["attention", "attention, mask and bias"])
def test_attention_inside_autocast_is_that_of_its_dtype_with_gradients_of_the_inputs(name):
    op = OPS[name]
    half = op.results({name: x.detach().bfloat16().requires_grad_() for name, x in op.leaves().items()})
    with torch.autocast("cpu", torch.bfloat16):
        inside = op.results(op.leaves())
    assert inside["out"].dtype == torch.bfloat16
    for name, x in inside.items():
        torch.testing.assert_close(x.bfloat16(), half[name], rtol=0.02, atol=0.05, msg=name)
        assert name == "out" or x.dtype == torch.float32


X, POS, FAR = torch.zeros(2, 5, 8), torch.zeros(5, 8), "meta"
ROWS, IDS = torch.zeros(6, 4), torch.arange(6)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("k", lambda: attention(X[:, :, None], X[:, :, None].to(FAR), X[:, :, None])),
        ("key_mask", lambda: attention(*[X[:, :, None]] * 3, key_mask=torch.ones(2, 5, dtype=torch.bool, device=FAR))),
        ("bias", lambda: attention(*[X[:, :, None]] * 3, bias=torch.zeros(5, 5, device=FAR))),
        ("index", lambda: gather_tokens(X, INDEX.to(FAR))),
        ("pos", lambda: gather_tokens(X, INDEX, POS.to(FAR))),
        ("offsets", lambda: gather_tokens(X, INDEX.flatten(), offsets=OFFSETS.to(FAR))),
        ("index", lambda: scatter_tokens(X[:, :3], INDEX.to(FAR), 5, POS[0])),
        ("mask_token", lambda: scatter_tokens(X[:, :3], INDEX, 5, POS[0].to(FAR))),
        ("pos", lambda: scatter_tokens(X[:, :3], INDEX, 5, POS[0], POS.to(FAR))),
        ("offsets", lambda: scatter_tokens(X.flatten(0, 1)[:6], INDEX.flatten(), 5, POS[0], offsets=OFFSETS.to(FAR))),
        ("queries", lambda: temporal_pool(X[None], torch.zeros(2, 8, device=FAR), torch.zeros(1, 5, 4))),
        ("positions", lambda: temporal_pool(X[None], torch.zeros(2, 8), torch.zeros(1, 5, 4, device=FAR))),
        ("the weight of layers[0]", lambda: row_mlp(ROWS, [[torch.zeros(4, 4, device=FAR), *torch.zeros(3, 4)]])),
        ("b", lambda: info_nce(ROWS, ROWS.to(FAR))),
        ("positives", lambda: info_nce(ROWS, ROWS, positives=torch.ones(6, 6, dtype=torch.bool, device=FAR))),
        ("group", lambda: mil_nce(ROWS, IDS.to(FAR))),
        ("block", lambda: mil_nce(ROWS, IDS, block=IDS.to(FAR))),
        ("prototypes", lambda: dino_cross_entropy(ROWS, ROWS.to(FAR), ROWS, ROWS)),
        ("teacher", lambda: dino_cross_entropy(ROWS, ROWS, ROWS.to(FAR), ROWS.to(FAR))),
        ("teacher_prototypes", lambda: dino_cross_entropy(ROWS, ROWS, ROWS, ROWS.to(FAR))),
        ("center", lambda: dino_cross_entropy(ROWS, ROWS, ROWS, ROWS, center=torch.zeros(6, device=FAR))),
    ],
)
def test_a_tensor_on_another_device_is_refused(name, run):
    with pytest.raises(ArgumentError) as caught:
        run()
    message = str(caught.value)
    assert message.startswith(f"{name} is")
    assert "meta" in message
    assert "cpu" in message


@pytest.mark.parametrize("name", ["attention", "row_mlp"])
def test_a_last_dimension_with_a_stride_is_copied(name):
    op = OPS[name]
    strided = {key: torch.stack([x, x], -1).detach()[..., 0].requires_grad_() for key, x in op.leaves().items()}
    expected = op.results(op.leaves())
    for key, x in op.results(strided).items():
        torch.testing.assert_close(x, expected[key], msg=key)


@pytest.mark.parametrize("name", ["gather", "scatter", "pool"])
def test_a_last_dimension_with_a_stride_is_refused(name):
    op = OPS[name]
    first, x = next(iter(op.leaves().items()))
    with pytest.raises(ArgumentError, match=f"{first} has strides .* contiguous last dimension"):
        op.run(**op.leaves(**{first: torch.stack([x, x], -1)[..., 0]}))


def penalty(op, leaves):
    """The gradients of the squared norm of the gradients, as a gradient penalty asks for them."""
    first = torch.autograd.grad(op.run(**leaves).square().sum(), list(leaves.values()), create_graph=True)
    return torch.autograd.grad(sum(x.square().sum() for x in first), list(leaves.values()))


TOKENS = {name: op for name, op in OPS.items() if op.public in ("gather_tokens", "scatter_tokens")}


@pytest.mark.parametrize("op", TOKENS.values(), ids=TOKENS.keys())
def test_second_derivatives_of_tokens_are_those_of_plain_torch(op):
    ours = penalty(op, op.leaves())
    with use_backend("reference"):
        plain = penalty(op, op.leaves())
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


NOT_TWICE = {name: op for name, op in OPS.items() if name not in TOKENS}


@compiled
@pytest.mark.parametrize("op", NOT_TWICE.values(), ids=NOT_TWICE.keys())
def test_a_second_derivative_is_refused_with_the_way_out(op):
    with pytest.raises(UsageError, match=rf'{op.public}.*no second derivative.*use_backend\("reference"\)'):
        penalty(op, op.leaves())
    with use_backend("reference"):
        assert all(x.isfinite().all() for x in penalty(op, op.leaves()))


@compiled
@every_op
def test_a_forward_derivative_is_refused_with_the_way_out(op):
    """torch gives custom operators a tangent of zero, without a word."""
    given = {name: x.detach() for name, x in op.leaves().items()}
    run = lambda *x: op.run(**dict(zip(given, x, strict=True)))  # noqa: E731
    at = tuple(given.values()), tuple(torch.ones_like(x) for x in given.values())
    with pytest.raises(UsageError, match=r'has a tangent.*use_backend\("reference"\)'):
        torch.func.jvp(run, *at)
    with use_backend("reference"):
        _, slopes = torch.func.jvp(run, *at)
        step = 1e-3
        ahead, behind = (run(*(x + sign * step * t for x, t in zip(*at, strict=True))) for sign in (1, -1))
    torch.testing.assert_close(slopes, (ahead - behind) / (2 * step), rtol=0.02, atol=0.02)


@every_op
def test_it_compiles_as_one_graph_with_the_same_results(op):
    if op is OPS["gather, ragged"]:
        pytest.skip("offsets are checked by value, which no graph can hold")
    torch.compiler.reset()
    leaves = op.leaves()
    expected, names = op.results(leaves), list(leaves)
    out = torch.compile(lambda *x: op.run(**dict(zip(names, x, strict=True))), fullgraph=True, backend="aot_eager")(
        *leaves.values()
    )
    grads = torch.autograd.grad(out.square().sum(), list(leaves.values()))
    torch.testing.assert_close(out, expected["out"])
    for name, x in zip(names, grads, strict=True):
        torch.testing.assert_close(x, expected[f"grad_{name}"], msg=name)


@compiled
@every_op
def test_any_number_of_threads_gives_the_same_bits(op):
    """Of inputs so small that most ops take one; those that share work among threads are tested beside each op."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(op.results(op.leaves()))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, found[0][name]) for name, x in other.items())


@every_op
def test_every_element_of_what_it_makes_is_written(op, poisoned):
    for name, x in op.results(op.leaves()).items():
        assert x.isfinite().all(), name


@every_op
def test_it_passes_opcheck_through_its_public_function(op):
    """What the function calls is registered as torch wants it: schema, fake kernel and gradient."""
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "eokit":
                seen.append((function, args))
            return function(*args, **(kwargs or {}))

    with Watch():
        op.results(op.leaves())
    if library.COMPILED:
        assert seen
    for function, args in seen:
        torch.library.opcheck(function, tuple(detached(x) for x in args), test_utils=CHECKS)


CHECKS = ("test_schema", "test_faketensor")  # gradients and compilation are those of the public function, above


def detached(x):
    if isinstance(x, list | tuple):
        return [detached(one) for one in x]
    return x.detach() if isinstance(x, Tensor) else x


EMPTY = {
    "attention, no sequences": (attention, {"q": (0, 4, 2, 8), "k": (0, 4, 2, 8), "v": (0, 4, 2, 8)}),
    "attention, no keys": (attention, {"q": (2, 4, 2, 8), "k": (2, 0, 2, 8), "v": (2, 0, 2, 8)}),
    "attention, no queries": (attention, {"q": (2, 0, 2, 8), "k": (2, 4, 2, 8), "v": (2, 4, 2, 8)}),
    "gather, no samples": (lambda x, pos: gather_tokens(x, INDEX[:0], pos), {"x": (0, 5, 8), "pos": (5, 8)}),
    "gather, no tokens": (lambda x, pos: gather_tokens(x, INDEX[:, :0], pos), {"x": (2, 0, 8), "pos": (0, 8)}),
    "gather, none of them": (lambda x, pos: gather_tokens(x, INDEX[:, :0], pos), {"x": (2, 5, 8), "pos": (5, 8)}),
    "gather, ragged, none": (
        lambda x, pos: gather_tokens(x, INDEX[0, :0], pos, offsets=torch.zeros(3).long()),
        {"x": (2, 0, 8), "pos": (0, 8)},
    ),
    "scatter, no length": (
        lambda visible, token, pos: scatter_tokens(visible, INDEX[:, :0], 0, token, pos),
        {"visible": (2, 0, 8), "token": (8,), "pos": (0, 8)},
    ),
    "scatter, none visible": (
        lambda visible, token, pos: scatter_tokens(visible, INDEX[:, :0], 5, token, pos),
        {"visible": (2, 0, 8), "token": (8,), "pos": (5, 8)},
    ),
    "pool, no pixels": (
        lambda x, queries: temporal_pool(x, queries, torch.ones(2, 4, 4)), {"x": (2, 0, 4, 8), "queries": (2, 8)}
    ),
    "pool, no dates": (
        lambda x, queries: temporal_pool(x, queries, torch.ones(2, 0, 4)), {"x": (2, 3, 0, 8), "queries": (2, 8)}
    ),
    "row_mlp, no rows": (mlp, OPS["row_mlp"].shapes | {"x": (0, 4)}),
    "info_nce, no rows": (info_nce, {"a": (0, 4), "b": (0, 4)}),
    "mil_nce, no rows": (lambda x: mil_nce(x, IDS[:0]), {"x": (0, 4)}),
    "dino, no rows": (
        lambda student, prototypes: dino_cross_entropy(student, prototypes, torch.ones(0, 3), torch.eye(5, 3)),
        {"student": (0, 4), "prototypes": (5, 4)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("run", "shapes"), EMPTY.values(), ids=EMPTY.keys())
def test_empty_inputs_give_results_and_gradients_of_their_shape_without_nan(run, shapes):
    op = Op("", run, shapes)
    found = op.results(op.leaves())
    for name, x in found.items():
        assert x.isfinite().all(), name
        assert name == "out" or x.shape == shapes[name.removeprefix("grad_")]

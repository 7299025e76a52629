"""The compiled CPU kernels: every instruction set, any number of threads, nothing left unwritten."""

import os

import pytest
import torch

from eokit.ops import attention
from tests.ops.cases import assert_as_exact_as_torch, make_case
from tests.ops.conftest import compiled

_native = pytest.importorskip("eokit._native", reason="the compiled libraries were not built")
pytestmark = compiled
INSTRUCTION_SETS = _native.instruction_sets()
HIGH = 11 * 2.0**36  # float32 holds it, and no logarithm of it to another base


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("queries", "keys", "dim", "mask"),
    [
        (1, 1, 8, None),
        (17, 17, 44, "scattered"),
        (61, 61, 64, "prefix"),
        (65, 400, 9, "scattered"),
        (150, 400, 44, "scattered"),
        (130, 7, 128, None),
    ],
)
def test_every_instruction_set_is_as_exact_as_torch(instruction_set, name, dtype, queries, keys, dim, mask):
    assert instruction_set(name) == name
    assert_as_exact_as_torch(make_case(queries, keys, dim, mask, bias=bool(mask)), "cpu", dtype)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [36, 400], ids=["one block of keys", "several"])
@pytest.mark.parametrize(("spread", "common", "mean"), [(25, 0, 0), (100, 0, 0), (1, 30, 5)])
def test_peaked_weights_are_as_exact_as_torch(instruction_set, name, dtype, keys, spread, common, mean):
    """Scores times `spread`; or scores that share a part of `common`^2, and values that share a mean."""
    instruction_set(name)
    case = make_case(36, keys, 64)
    case.q, case.k, case.v = case.q * spread**0.5, case.k * spread**0.5, case.v + mean
    case.q[..., 0] += common
    case.k[..., 0] += common
    assert_as_exact_as_torch(case, "cpu", dtype)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(36, 61), (100, 400)])
def test_a_negative_scale_finds_the_highest_score_too(instruction_set, name, biased, queries, keys):
    """Scores of several hundred, whose weights would not be finite if the lowest one were taken for the highest."""
    instruction_set(name)
    case = make_case(queries, keys, 16, bias=biased)
    q, k, v = 20 * case.q.float(), 20 * case.k.float(), case.v.float()
    bias = case.bias.float() if biased else None
    negative, positive = (attention(sign * q, k, v, bias=bias, scale=sign * 0.25, backend="cpu") for sign in (-1, 1))
    torch.testing.assert_close(negative, positive, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("keys", [61, 400, 700], ids=["one block of keys", "several", "four"])
@pytest.mark.parametrize("common", [30, 1000, 100_000])
def test_scores_that_are_all_high_are_as_exact_as_torch(instruction_set, name, keys, common):
    """Scores of `common`, two more or less, in eighths that float32 holds: only weights and sums are rounded."""
    instruction_set(name)
    case = make_case(36, keys, 64)
    case.q, case.k = (torch.randint(-1, 2, x.shape).double() for x in (case.q, case.k))
    case.q[..., 17:], case.q[..., 0], case.k[..., 0] = 0, 1, 8 * common
    exact, theirs = case.run("reference", torch.float64), case.run("sdpa", torch.float32)
    for what, ours in case.run("cpu", torch.float32).items():
        error, own = ((x - exact[what]).square().mean().sqrt() for x in (ours, theirs[what]))
        assert error <= 2 * own, f"{what}: {error:.3g}, torch {own:.3g}"


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("keys", [61, 400, 700])
@pytest.mark.parametrize(
    ("first", "last"), [(HIGH, 0), (7 * 2**27, 0), (0, HIGH), (HIGH, -HIGH), (2**20 - 1, 2**20 + 1)]
)
def test_one_high_score_among_low_ones(instruction_set, name, keys, first, last):
    """Of the first key and of the last, which are in other blocks where keys are many."""
    instruction_set(name)
    case = make_case(36, keys, 64)
    case.q[..., 0], case.k[..., 0] = 1, 0
    case.k[:, :, 0, :, 0], case.k[:, :, -1, :, 0] = 8 * first, 8 * last
    case.q[..., 1:], case.k[:, :, [0, -1], :, 1:] = case.q[..., 1:].round(), 0
    exact, theirs = case.run("reference", torch.float64), case.run("sdpa", torch.float32)
    for what, ours in case.run("cpu", torch.float32).items():
        largest = 8 * max(abs(first), abs(last)) if what == "grad_q" else 1  # slopes times keys
        error, own = ((x - exact[what]).abs().max() for x in (ours, theirs[what]))
        assert error <= 2 * own + 1e-6 * largest, f"{what}: {error:.3g}, torch {own:.3g}"


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_a_query_of_nan_leaves_the_others_alone(instruction_set, name):
    instruction_set(name)
    q, k, v = torch.zeros(1, 36, 1, 64), torch.zeros(1, 61, 1, 64), torch.randn(1, 61, 1, 64)
    q[..., 0], k[..., 0] = 2.0**23, (2.0**20 * torch.arange(61.0))[:, None]
    q[:, 16] = float("nan")
    out = attention(q, k, v, backend="cpu")
    assert out[:, 16].isnan().all()
    others = torch.arange(36) != 16
    torch.testing.assert_close(out[:, others], v[:, -1:].expand(1, 35, 1, 64))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("keys", [3, 61, 400])
def test_scores_of_any_size_choose_their_key(instruction_set, name, keys):
    """Scores up to 1e12, which are whole numbers: rounded to another base they would differ by thousands."""
    instruction_set(name)
    numbers = torch.arange(keys, dtype=torch.float32).roll(keys // 2)
    q, k = torch.zeros(2, 36, 2, 64), torch.zeros(2, keys, 2, 64)
    q[..., 0], k[..., 0] = -3.0 * 2**18, (2.0**18 * (numbers - keys))[:, None]
    q, k, v = (x.requires_grad_() for x in (q, k, torch.randn(2, keys, 2, 64)))
    out = attention(q, k, v, backend="cpu")
    out.sum().backward()
    chosen = int(numbers.argmin())
    torch.testing.assert_close(out, v[:, chosen : chosen + 1].expand_as(out))
    assert (v.grad[:, chosen] == 36).all()
    assert v.grad.sum() == 36 * v[:, 0].numel()
    for x, other in ((q, k), (k, q)):  # what rounding leaves of slopes, sums over 64 features
        assert x.grad.abs().max() <= 1e-4 * other.abs().max()


@pytest.mark.parametrize("name", [name for name in INSTRUCTION_SETS if name != "avx512_bf16"])
@pytest.mark.parametrize("low", [-1e10, -1e30, torch.finfo(torch.float32).min])
@pytest.mark.parametrize(("keys", "rows"), [(36, slice(3, 4)), (400, slice(None))], ids=["a query", "first keys"])
def test_biases_that_mask_are_as_exact_as_torch(instruction_set, name, low, keys, rows):
    """All keys of one query, whose weights are then equal; or of all queries more than the first block."""
    instruction_set(name)
    case = make_case(36, keys, 16, bias=True)
    case.bias[..., rows, :210] = low
    assert_as_exact_as_torch(case, "cpu", torch.float32)


@pytest.mark.parametrize("name", [name for name in INSTRUCTION_SETS if name != "avx512_bf16"])
@pytest.mark.parametrize(("queries", "keys"), [(256, 2048), (2048, 256)])
def test_long_sums_are_as_exact_as_torch(instruction_set, name, queries, keys):
    """Of thousands of keys, or queries; nothing is granted but a rounding of the largest result."""
    instruction_set(name)
    case = make_case(queries, keys, 64)
    exact, theirs = case.run("reference", torch.float64), case.run("sdpa", torch.float32)
    for what, ours in case.run("cpu", torch.float32).items():
        error, own = ((x - exact[what]).abs().max() for x in (ours, theirs[what]))
        assert error <= 2 * own + torch.finfo(torch.float32).eps * exact[what].abs().max(), what


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_to_the_nearest_even(instruction_set, name, dtype):
    """One key of weight 1 makes the output its value, which the kernel has converted to float and back."""
    instruction_set(name)
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    finite = bits[bits.isfinite()]
    if name == "avx512_bf16" and dtype == torch.bfloat16:  # its instruction takes numbers below 1.2e-38 for 0
        finite = finite[finite.abs() >= torch.finfo(dtype).tiny]
    v = finite[: len(finite) // 24 * 24].view(-1, 1, 1, 24)
    out = attention(torch.zeros_like(v), torch.zeros_like(v), v, backend="cpu")
    assert torch.equal(out, v)
    mean = attention(torch.zeros(2, 1, 1, 24, dtype=dtype), torch.zeros(2, 2, 1, 24, dtype=dtype),
                     torch.stack([v[:2, 0], v[1:3, 0]], 1), backend="cpu")  # fmt: skip
    assert torch.equal(mean[:, 0], ((v[:2, 0].float() + v[1:3, 0].float()) / 2).to(dtype))


def test_the_fastest_instruction_set_measured_is_the_default(instruction_set):
    fast = [name for name in INSTRUCTION_SETS if name != "avx512_bf16"]
    assert instruction_set("auto") == os.environ.get("EOKIT_INSTRUCTION_SET", fast[-1])


def test_an_unknown_instruction_set_is_refused(instruction_set):
    with pytest.raises(RuntimeError, match="unknown instruction set mmx"):
        instruction_set("mmx")


@pytest.mark.parametrize("mask", [None, "scattered"])
@pytest.mark.parametrize(("queries", "keys", "dim"), [(5, 17, 44), (61, 2, 8), (257, 200, 16)])
def test_every_output_element_is_written(poisoned, queries, keys, dim, mask):
    for name, x in make_case(queries, keys, dim, mask).run("cpu", torch.float32).items():
        assert x.isfinite().all(), name


def test_values_under_masked_keys_are_never_read():
    case = make_case(9, 17, 16, "scattered")
    before = case.run("cpu", torch.float32)
    hidden = ~case.key_mask[..., None, None]
    case.k, case.v = (torch.where(hidden, float("nan"), x) for x in (case.k, case.v))
    for name, x in case.run("cpu", torch.float32).items():
        assert torch.equal(x, before[name]), name


@pytest.mark.parametrize("length", [61, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_any_number_of_threads_gives_the_same_bits(length, dtype, bias):
    """The longer ones are split between threads, as there are few of them."""
    case = make_case(length, length, 32, "scattered", bias=bias)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(case.run("cpu", dtype))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, results[0][name]) for name, x in other.items())


def test_what_a_sequence_is_batched_with_changes_no_bit():
    q, k, v = (torch.randn(6, 17, 2, 32) for _ in range(3))
    together = attention(q, k, v, backend="cpu")
    alone = torch.cat([attention(*(x[i : i + 1] for x in (q, k, v)), backend="cpu") for i in range(6)])
    assert torch.equal(together, alone)


def test_padding_with_masked_keys_changes_no_bit():
    q, k, v = (torch.randn(3, 17, 2, 32) for _ in range(3))
    longer = [torch.cat([x, torch.randn(3, 8, 2, 32)], dim=1) for x in (k, v)]
    padded = attention(q, *longer, key_mask=torch.arange(25) < 17, backend="cpu")
    assert torch.equal(padded, attention(q, k, v, backend="cpu"))


def test_nan_in_a_valid_key_reaches_the_output():
    q, k, v = (torch.randn(1, 5, 1, 16) for _ in range(3))
    k[0, 2] = float("nan")
    assert attention(q, k, v, backend="cpu").isnan().all()

"""What launches of the Triton kernels compile, for every target and without a GPU: it keeps to its registers.

The launches are recorded (`triton_launches.py`), so that types, constants and what Triton knows of strides are those of
a GPU. Widths and strides here are one of each kind; `python -m tests.ops.triton_launches` goes through all.
"""

from itertools import product

import pytest
import torch

from eokit.ops import library
from tests.ops.triton_launches import (
    TARGETS,
    asked_by,
    attention,
    compiled,
    compilers,
    described,
    dino,
    layer,
    nce,
    norm,
    pool,
    recorded,
    tokens,
)

pytestmark = [
    pytest.mark.skipif(not library.TRITON, reason="triton is not installed: pip install 'eokit[triton]'"),
    pytest.mark.skipif(library.INTERPRETED, reason="the interpreter compiles nothing"),
]
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def attention_calls():
    """Rows at multiples of 16 bytes, of 8 (44 and 100 features), and anywhere (a gap, 13 features)."""
    for dtype, dim in (
        (BF16, 8),
        (BF16, 48),
        (BF16, 128),
        (FP16, 44),
        (FP16, 100),
        (FP32, 44),
        (FP32, 128),
    ):
        yield from attention(dtype, dim)
    yield from attention(BF16, 64, mask=False, bias=False)
    for dim in (32, 128):
        yield attention(BF16, dim, bias=False)[0]
    for dtype, dim in product((BF16, FP32), (44, 48, 100, 128)):
        yield attention(dtype, dim, bias=False)[1]
    for dtype, dim in ((BF16, 13), (FP16, 64), (FP16, 96), (BF16, 128), (FP32, 64), (FP32, 128)):
        yield from attention(dtype, dim, gap=1)
    yield from attention(BF16, 64, bias=False, length=1, shape=(1, 1, 1))


def pool_calls():
    for dtype, dim, heads in ((BF16, 16, 16), (BF16, 64, 16), (FP16, 96, 16), (FP32, 64, 16), (FP32, 256, 16)):
        yield from pool(dtype, dim, heads)
    for dtype, dim, heads in ((FP16, 100, 4), (FP16, 128, 1), (BF16, 300, 15), (FP32, 500, 5), (FP32, 512, 16)):
        yield from pool(dtype, dim, heads, mask=False, samples=1)


def layer_calls():
    for dtype, width in product((BF16, FP16), (24, 64, 96, 256)):
        yield from layer(dtype, 768, width, 4)
    for dtype, inputs, width, groups in ((BF16, 10, 24, 4), (FP16, 1, 1, 1), (FP16, 33, 100, 4), (BF16, 96, 250, 1)):
        yield from layer(dtype, inputs, width, groups, gap=1)


def other_calls():
    for dtype in (BF16, FP32):
        for by_output in (False, True):
            yield from tokens(dtype, 768, by_output=by_output)
        for width, groups in ((32, 1), (384, 4), (2048, 1)):
            yield from norm(dtype, width, groups)
        yield from norm(dtype, 25, 4, rows=1)
    yield from tokens(FP16, 45, positions=False, gap=1)


def loss_calls():
    """Whole tiles, and the last of a row of them."""
    for columns in (2048, 143):
        yield from dino(columns)
        yield from nce(False, columns=columns)
        yield from nce(False, positives=True, columns=columns)
        yield from nce(True, groups=True, blocks=True, columns=columns)


CALLS = (attention_calls, pool_calls, layer_calls, other_calls, loss_calls)


def tall(text):
    """What the same launch compiles for a series of more than 2^31 elements, whose strides are int64."""
    return text.replace('["i32", "i32", "i32", "i32"]', '["i64", "i64", "i64", "i64"]')


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with compilers(str(tmp_path_factory.mktemp("triton"))) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("calls", CALLS, ids=lambda one: one.__name__)
def test_what_launches_compile_needs_no_stack(calls, processes):
    asked = asked_by(calls())
    if calls is attention_calls:
        asked += [tall(text) for text in asked_by(attention(BF16, 64))][:5]
    pairs = list(product(asked, TARGETS))
    assert len(pairs) > len(TARGETS)
    found = list(processes.map(compiled, *zip(*pairs, strict=True)))
    lines = [
        f"sm_{target}: {registers} registers, {stack} bytes of stack: {described(text)}"
        for (text, target), (registers, stack) in zip(pairs, found, strict=True)
    ]
    print("\n".join(lines))
    spilled = [line for line, (_, stack) in zip(lines, found, strict=True) if stack]
    assert not spilled, "\n".join(spilled)


def test_lengths_and_batches_compile_nothing_again():
    """A compilation for each configuration that fits, whatever there is of sequences and of queries and keys."""
    once = asked_by(attention(BF16, 64))
    assert len(once) > 2
    for length, shape in product((128, 129, 144, 257), ((1, 1, 3), (2, 4, 3), (1, 5, 3))):
        assert asked_by(attention(BF16, 64, length=length, shape=shape)) == once, (length, shape)


def test_short_sequences_use_some_of_what_long_ones_compile():
    once = asked_by(attention(BF16, 64))
    for length in (1, 2, 16, 17, 33, 64):
        assert set(asked_by(attention(BF16, 64, length=length))) <= set(once), length


def test_pixels_and_dates_compile_no_pooling_again():
    once = asked_by(pool(BF16, 64, 16))
    assert len(once) == 2
    assert asked_by(pool(BF16, 64, 16, samples=1)) == once


def test_rows_of_logits_compile_no_losses_again():
    once = asked_by(nce(True, groups=True, blocks=True))
    assert len(once) == 6
    assert asked_by(nce(True, groups=True, blocks=True, rows=5)) == once
    last = asked_by(nce(True, groups=True, blocks=True, columns=143))
    assert asked_by(nce(True, groups=True, blocks=True, columns=7)) == last != once


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("length", [5, 40, 130])
def test_the_first_configuration_that_fits_is_taken_untimed_where_results_must_be_deterministic(length, deterministic):
    """Timing would ask the driver for a clock, which there is none of."""
    calls = attention(BF16, 64, length=length)
    every = asked_by(calls)
    with recorded(every=False) as asked:
        for call in calls:
            call()
    kernels = [described(text).split()[0] for text in every]
    assert len(every) > len(asked) or length == 5
    assert asked == [every[kernels.index(name)] for name in dict.fromkeys(kernels)]


def test_else_configurations_are_timed(monkeypatch):
    from eokit.ops.attention import triton

    timed = []
    monkeypatch.setattr(type(triton._forward_kernel.timed), "run", lambda *_, **constants: timed.append(constants))
    attention(BF16, 64)[0]()
    assert [one["ALIGN"] for one in timed] == [16]


@pytest.mark.parametrize(
    ("dim", "gap", "expected"), [(64, 0, 16), (24, 0, 16), (44, 0, 8), (44, 4, 16), (13, 0, 2), (64, 1, 2)]
)
def test_rows_are_aligned_as_their_strides_and_addresses_are(dim, gap, expected):
    from eokit.ops.triton_support import alignment

    rows = torch.empty(2, 3, 2, dim + gap, dtype=BF16)[..., :dim]
    assert alignment(rows) == expected
    assert alignment(rows, torch.empty(2, 1, 1, 24, dtype=BF16)[..., 8:]) == expected
    assert alignment(rows, torch.empty(2, 1, 1, 24, dtype=BF16)[..., 1:]) == 2

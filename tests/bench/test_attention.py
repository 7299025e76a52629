"""The contenders of `eokit bench attention` compute the same attention, and the gate notices one that does not."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from eokit.errors import UsageError
from eokit.ops import attention
from eokit_bench import attention as bench
from eokit_bench.baselines import AXES, baselines, flex, heads_first, permuted, sequences, zero_copy
from eokit_bench.measure import Case, Plan, measure
from eokit_bench.registry import AttentionSettings

CPU = torch.device("cpu")
SIZE = (2, 5, 3, 2, 16)
CONTENDERS = {
    "ours": bench.ours,
    "zero-copy": zero_copy,
    "permuted": permuted,
    "flex": partial(flex, compiled=False),
}


def small(**changed):
    return AttentionSettings(**{"seq_len": (7,), "positions": 3, "heads": 2, "head_dim": 16, "device": "cpu"} | changed)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("name", CONTENDERS)
def test_a_contender_is_attention(name, axis, rate):
    torch.manual_seed(0)
    q, k, v = (torch.randn(SIZE, dtype=torch.float64) for _ in range(3))
    mask = bench.random_mask(sequences(q, axis), rate, torch.Generator().manual_seed(0))
    exact = attention(*(sequences(x, axis) for x in (q, k, v)), key_mask=mask, backend="reference")
    out = CONTENDERS[name](q, k, v, mask, axis)
    assert out.shape == q.shape
    torch.testing.assert_close(sequences(out, axis), exact)


@pytest.mark.parametrize("axis", AXES)
def test_the_zero_copy_view_copies_nothing(axis):
    x = torch.randn(SIZE)
    assert heads_first(x, axis).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_case_passes_its_gate(dtype):
    for case in bench.cases(small(dtype=(dtype,), mask_rate=0.3)):
        told = measure(case, Plan(turns=3))["contenders"]
        assert set(told) == {"eokit", *baselines(CPU)}
        assert all("ms" in one for one in told.values()), told


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("backward", [False, True])
def test_the_gate_sees_a_wrong_scale(axis, backward):
    def wrong(q, k, v, key_mask, axis):
        return bench.ours(1.01 * q, k, v, key_mask, axis)

    shape = bench.Shape(axis, SIZE, torch.float32, 0.0, backward)
    prepared = bench.set_up(shape, CPU, {"eokit": bench.ours, "wrong": wrong})
    told = measure(Case({"T": 5}, tuple(prepared.runs), lambda: prepared), Plan(turns=3))["contenders"]
    assert "ms" in told["eokit"]
    assert told["wrong"]["wrong"]
    assert "ms" not in told["wrong"]


def test_forward_and_both_are_measured_unless_told():
    passes = {None: 2, True: 1, False: 1}
    for backward, count in passes.items():
        assert len(bench.cases(small(axis=("joint",), backward=backward))) == count


def test_work_is_that_of_the_mathematics():
    forward = bench.work(bench.Shape("temporal", SIZE, torch.float32, 0.0, False))
    both = bench.work(bench.Shape("temporal", SIZE, torch.float32, 0.0, True))
    values = 2 * 5 * 3 * 2 * 16
    assert (forward.bytes, forward.flops) == (4 * 4 * values, 4 * 5 * values)
    assert both.flops == 7 * forward.flops // 2
    assert bench.work(bench.Shape("joint", SIZE, torch.float32, 0.0, False)).flops == 3 * forward.flops


def test_what_would_take_hours_is_left_out_and_said():
    (case,) = bench.cases(small(seq_len=(4096,), positions=1024, axis=("joint",), backward=False))
    assert "4,194,304 tokens" in case.left_out


def test_what_does_not_fit_into_memory_is_refused():
    with pytest.raises(UsageError, match=r"--seq-len.*GB"):
        bench.cases(small(seq_len=(65_536,), positions=65_536, heads=16, head_dim=128))

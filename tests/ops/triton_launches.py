"""What launches ask Triton to compile, recorded without a GPU, and what registers and stack the compiler gives it.

python -m tests.ops.triton_launches [WORD ...]      every width, dtype, mask and bias, of kernels with a WORD in
                                                    their names; prints what docs/gpu-status.md says; hours
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

TARGETS = (80, 90, 100)
WIDTHS = (8, 12, 13, 16, 24, 32, 44, 48, 64, 96, 100, 128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Call = Callable[[], Any]


def attention(dtype, dim, mask=True, bias=True, gap=0, length=130, shape=(2, 4, 3)) -> list[Call]:
    """Forward and backward of shape (B, N, H); gap: elements between rows, 1: they start anywhere."""
    from eokit.ops.attention import triton

    batch, positions, heads = shape
    q = torch.empty(batch, length, positions, heads, dim + gap, dtype=dtype)[..., :dim].transpose(1, 2)
    key_mask = torch.ones(batch, 1, length, dtype=torch.bool).expand(batch, positions, length) if mask else None
    bias_t, lse = torch.empty(1, 1, heads, length, length) if bias else None, torch.empty(*shape, length)
    return [
        lambda: triton.attention_forward(q, q, q, key_mask, bias_t, 0.5),
        lambda: triton.attention_backward(q, q, q, q, key_mask, bias_t, q, lse, 0.5, bias),
    ]


def pool(dtype, dim, heads, mask=True, samples=2) -> list[Call]:
    """Forward and, where torch does not do it, backward."""
    from eokit.ops.temporal_pool import autograd, triton

    x, u = torch.empty(6, 19, dim, dtype=dtype), torch.empty(heads, dim)
    bias, place = torch.empty(samples, 19, heads), torch.empty(samples, 19, dim // heads)
    key_mask, lse = torch.ones(6, 19, dtype=torch.bool) if mask else None, torch.empty(6, heads)
    calls = [lambda: triton.pool_forward(x, u, bias, place, key_mask)]
    if dtype == torch.float32 or dim <= autograd.WIDEST_BACKWARD_HALF:
        calls.append(lambda: triton.pool_backward(x[:, 0], x, u, bias, place, key_mask, lse))
    return calls


def norm(dtype, width, groups, rows=137) -> list[Call]:
    from eokit.ops.row_mlp import triton

    z, gain = torch.empty(rows, width * groups, dtype=dtype), torch.empty(width * groups)
    return [
        lambda: triton.norm_relu(z, gain, gain, groups, 1e-5),
        lambda: triton.norm_relu_backward(z, z, gain, gain, groups, 1e-5),
    ]


def layer(dtype, inputs, width, groups, gap=0) -> list[Call]:
    """Product, norm and ReLU; gap: elements between the rows of x."""
    from eokit.ops.row_mlp import triton_gemm

    x = torch.empty(137, inputs + gap, dtype=dtype)[:, :inputs]
    weight, gain = torch.empty(width * groups, inputs, dtype=dtype), torch.empty(width * groups)
    bias, out = weight.new_empty(width * groups), x.new_empty(137, width * groups)
    return [lambda: triton_gemm.linear_norm_relu(x, weight, bias, gain, gain, groups, 1e-5, out)]


def tokens(dtype, dim, positions=True, fill=True, by_output=True, gap=0) -> list[Call]:
    from eokit.ops.tokens import triton

    x, index = torch.empty(3, 19, dim + gap, dtype=dtype)[..., :dim], torch.empty(3, 7, dtype=torch.int64)
    pos, token = x.new_empty(3, 19, dim) if positions else None, x.new_empty(dim) if fill else None
    return [
        lambda: triton.map_rows(x, index, index, token, pos, by_output),
        lambda: triton.sum_unmapped(x.contiguous(), index.new_empty(3, 19)),
    ]


def nce(inside, positives=False, groups=False, blocks=False, columns=2048, rows=137) -> list[Call]:
    """What is done to a tile of logits: forward, then backward. Of positives, the matrix and the ids."""
    from eokit.ops.losses import triton
    from eokit.ops.losses.tiles import Pairs

    scores, ids = torch.empty(rows, columns), (torch.empty(rows).long(), torch.empty(columns).long())
    pairs = Pairs(
        torch.empty(rows, columns + 1, dtype=torch.bool)[:, :columns] if positives else None,
        *(ids if groups else (None, None)),
        *(ids if blocks else (None, None)),
    )
    state = torch.empty(4, rows)
    return [
        lambda: triton.nce_add(scores, pairs, state, inside),
        lambda: triton.nce_slopes(scores, pairs, state[0], state[1], inside),
    ]


def dino(columns=2048) -> list[Call]:
    from eokit.ops.losses import triton

    scores, center, state = torch.empty(137, columns), torch.empty(columns), torch.empty(5, 137)
    return [
        lambda: triton.dino_add(scores, scores, center, state),
        lambda: triton.dino_slopes(scores, scores, center, state[0], state[1]),
    ]


class _Nowhere:
    """As much of a driver as a launch asks before it compiles."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@contextmanager
def recorded(every: bool = True) -> Iterator[list[str]]:
    """A list that holds, after the block, what launches in it would compile, as JSON; nothing is launched.

    Tensors may lie on the CPU, and keep what was in memory. every: all configurations that fit in place of the best.
    """
    from triton import knobs
    from triton.runtime import driver

    from eokit.ops.triton_support import Tuned

    found, kernels, asked = {}, set(), []

    def note(*, fn, compile, **_):
        kernels.add(fn.jit_function)
        found[compile["specialization_data"]] = None
        return True  # as if it were compiled elsewhere

    def launch_every(tuned, grid):
        def launch(*arguments, **constants):
            for one in tuned.fitting(dict(zip(tuned.kernel.arg_names, arguments, strict=False)) | constants):
                tuned.kernel[grid](*arguments, **constants, **one.all_kwargs())

        return launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_active", _Nowhere())
        patch.setattr(knobs.runtime, "jit_cache_hook", note)
        if every:
            patch.setattr(Tuned, "__getitem__", launch_every)
        try:
            yield asked
        finally:
            asked.extend(found)
            for kernel in kernels:
                kernel.device_caches.clear()  # they know the driver of this block


def asked_by(calls: Iterable[Call]) -> list[str]:
    with recorded() as asked:
        for call in calls:
            call()
    return asked


def _tuples(x):
    return tuple(map(_tuples, x)) if isinstance(x, list) else x


def compiled(text: str, target: int) -> tuple[int, int]:
    """(registers, bytes of stack) of the cubin for sm_<target>."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    asked = json.loads(text)
    module, name = asked["name"].rsplit(".", 1)
    constants = dict(zip(map(tuple, asked["constant_keys"]), asked["constant_vals"], strict=True))
    attributes = dict(zip(map(tuple, asked["attrs_keys"]), asked["attrs_vals"], strict=True))
    signature = {key: _tuples(kind) for key, kind in asked["signature"].items()}
    source = ASTSource(getattr(import_module(module), name), signature, constants, attributes)
    options = {key: asked["options"][key] for key in ("num_warps", "num_stages", "maxnreg")}
    binary = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = (int(re.search(rf"\b{what}:(\d+)", usage.stdout)[1]) for what in ("REG", "STACK"))
    return registers, stack


def use_cache(folder: str) -> None:
    os.environ["TRITON_CACHE_DIR"] = folder


def compilers(folder: str) -> ProcessPoolExecutor:
    """Two processes, in which `compiled` keeps to itself what it makes."""
    return ProcessPoolExecutor(2, get_context("spawn"), use_cache, (folder,))


def described(text: str) -> str:
    """One line: kernel, type of the elements, constants and options."""
    asked = json.loads(text)
    names, kinds = list(asked["signature"]), set(map(str, asked["signature"].values()))
    element = ({"*bf16", "*fp16"} & kinds or {"*fp32"}).pop()[1:]
    constants = zip(asked["constant_keys"], asked["constant_vals"], strict=True)
    given = [f"{names[key[0]]}{list(key[1:]) or ''}={value}" for key, value in constants]
    options = [f"{key}={asked['options'][key]}" for key in ("num_warps", "num_stages", "maxnreg")]
    return " ".join([asked["name"].rsplit(".", 1)[1], element, *given, *options])


def _sweep() -> list[Call]:
    every = product(DTYPES, WIDTHS, (True, False), (True, False), (0, 1))
    calls = [call for case in every for call in attention(*case)]
    for dtype in DTYPES:
        for dim, heads in ((16, 16), (64, 16), (96, 16), (100, 4), (128, 1), (256, 16), (300, 15), (512, 16), (44, 44)):
            calls += [*pool(dtype, dim, heads), *pool(dtype, dim, heads, mask=False, samples=1)]
        for width, groups in ((1, 4), (24, 4), (25, 4), (32, 1), (100, 4), (384, 4), (1900, 1), (2048, 1)):
            calls += [*norm(dtype, width, groups), *norm(dtype, width, groups, rows=1)]
        for dim, positions, fill, by_output, gap in product((1, 44, 45, 768), *[(True, False)] * 3, (0, 1)):
            calls += tokens(dtype, dim, positions, fill, by_output, gap)
        if dtype != torch.float32:
            for inputs, width, groups, gap in product((1, 10, 33, 96, 768), (1, 24, 63, 96, 250, 256), (1, 4), (0, 1)):
                calls += layer(dtype, inputs, width, groups, gap)
    for columns in (2048, 143, 1):
        calls += [*dino(columns), *nce(True, groups=True, blocks=True, columns=columns)]
        calls += [*nce(False, columns=columns), *nce(False, positives=True, columns=columns)]
    return calls


def main(words: list[str]) -> None:
    asked = [text for text in asked_by(_sweep()) if all(word in described(text) for word in words)]
    most, spilled = {}, 0
    with tempfile.TemporaryDirectory() as folder, compilers(folder) as processes:
        pairs = list(product(asked, TARGETS))
        found = processes.map(compiled, *zip(*pairs, strict=True))
        for (text, target), (registers, stack) in zip(pairs, found, strict=True):
            what = described(text).split()[0], target
            most[what] = max(most.get(what, 0), registers)
            spilled += stack > 0
            print(f"sm_{target} {registers} registers, {stack} bytes of stack: {described(text)}", flush=True)
    print(f"{len(pairs)} compilations, {spilled} with a stack; most registers: {most}")


if __name__ == "__main__":
    main(sys.argv[1:])

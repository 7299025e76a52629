"""Every shipped Triton configuration compiles for every target, without a GPU, and keeps to its registers."""

import itertools
import os
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from eokit.ops import library

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not library.TRITON, reason="triton is not installed: pip install 'eokit[triton]'"),
    pytest.mark.skipif(library.INTERPRETED, reason="the interpreter compiles nothing"),
]
TARGETS = (80, 90, 100)
HEADS = (16, 32, 64, 128)
POINTERS = {"key_mask": "*u8", "mask": "*u8", "map": "*i64"}
FLOATS = {"bias_t", "lse", "sums", "gain", "shift", "gain_sums", "shift_sums"}
FLOATS |= {"queries", "bias", "query_sums", "bias_sums"}
SIZES = {"inner", "heads", "lq", "lk", "own_inner", "own_heads", "shared", "shared_inner", "shared_heads", "parts"}
SIZES |= {"inputs", "count", "groups", "width", "rows", "dim", "position_rows", "pixels", "dates", "head_count"}


@dataclass(frozen=True)
class Job:
    """One compilation: `module`.`kernel` with these constants, and those left out (a mask, a bias) as None."""

    module: str
    kernel: str
    element: str
    constants: dict = field(hash=False)
    warps: int = 4
    stages: int = 2
    registers: int | None = None
    without: tuple = ()


def attention_jobs():
    attention = import_module("eokit.ops.attention.triton")

    kernels = {"forward": attention.FORWARD, "backward": attention.BACKWARD, "grad_bias": attention.GRAD_BIAS}
    for name, tiles in kernels.items():
        for element, size in (("bf16", 2), ("fp32", 4)):
            for head in HEADS:
                for config in attention.configs_of(tiles, size, head):
                    yield attention_job(name, element, config, head, head)
        widest = attention.configs_of(tiles, 2, 64)[0]
        for without in ((), ("key_mask",), ("key_mask", "bias_t")):
            if name != "grad_bias" or "bias_t" not in without:
                yield attention_job(name, "fp16", widest, 44, 64, without)


def attention_job(name, element, config, dim, head, without=()):
    constants = {"DIM": dim, "HEAD": head, "QUERIES": 128, "KEYS": 128, "PRECISION": "ieee", "UPCAST": False}
    constants |= config.kwargs
    options = (config.num_warps, config.num_stages, config.maxnreg, without)
    return Job("eokit.ops.attention.triton_kernels", f"attention_{name}_kernel", element, constants, *options)


def other_jobs():
    norm, tokens = import_module("eokit.ops.row_mlp.triton"), import_module("eokit.ops.tokens.triton")

    for element in ("bf16", "fp32"):
        for config in tokens.MAP:
            for by_output in (False, True):
                constants = config.kwargs | {"BY_OUTPUT": by_output}
                yield Job("eokit.ops.tokens.triton", "map_rows_kernel", element, constants, config.num_warps)
        for config in tokens.SUM:
            yield Job("eokit.ops.tokens.triton", "sum_unmapped_kernel", element, config.kwargs, config.num_warps)
        for width in (32, 384, 2048):
            tile = norm.tile_of(width)
            warps = tile.pop("num_warps")
            for kernel in ("norm_relu_kernel", "norm_relu_backward_kernel"):
                yield Job("eokit.ops.row_mlp.triton", kernel, element, tile, warps)


def gemm_jobs():
    gemm = import_module("eokit.ops.row_mlp.triton_gemm")
    for element, padded in itertools.product(("bf16", "fp16"), gemm.TILES):
        constants = gemm.tile_of(padded) | {"PRECISION": "ieee", "UPCAST": False}
        options = [constants.pop(what) for what in ("num_warps", "num_stages")]
        yield Job("eokit.ops.row_mlp.triton_gemm", "linear_norm_relu_kernel", element, constants, *options)


def pool_jobs():
    pool = import_module("eokit.ops.temporal_pool.triton")
    forward = [(dtype, dim) for dtype in (torch.bfloat16, torch.float32) for dim in (16, 64, 256, 512)]
    backward = [(torch.bfloat16, 64), (torch.bfloat16, 128), (torch.float32, 64), (torch.float32, 256)]
    for name, cases in (("forward", forward), ("backward", [*backward, (torch.float32, 512)])):
        for dtype, dim in cases:
            constants = pool.constants_of(torch.empty(0, dim, dtype=dtype), 16)
            options = [constants.pop(what) for what in ("num_warps", "num_stages", "maxnreg")]
            element = "bf16" if dtype == torch.bfloat16 else "fp32"
            yield Job("eokit.ops.temporal_pool.triton", f"pool_{name}_kernel", element, constants, *options)


def compiled(job, target):
    """(registers, bytes of stack) of the cubin."""
    import tempfile

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(import_module(job.module), job.kernel)
    constants = job.constants | dict.fromkeys(job.without)
    types = {name: "constexpr" if name in constants else type_of(name, job.element) for name in kernel.arg_names}
    if "head_count" in types:
        types["positions"] = "*fp32"  # of temporal_pool; those of tokens are of the dtype of the tokens
    aligned = {}  # as a launch finds it: pointers and strides are multiples of 16
    for i, kind in enumerate(types.values()):
        if isinstance(kind, tuple):
            aligned |= {(i, j): [["tt.divisibility", 16]] for j in range(len(kind))}
        elif kind.startswith("*"):
            aligned[i,] = [["tt.divisibility", 16]]
    options = {"num_warps": job.warps, "num_stages": job.stages, "maxnreg": job.registers}
    source = ASTSource(kernel, types, constants, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options).asm["cubin"]
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return tuple(int(re.search(rf"\b{what}:(\d+)", usage.stdout)[1]) for what in ("REG", "STACK"))


def type_of(name, element):
    if name.endswith("_strides"):
        return ("i64",) * (3 if name == "mask_strides" else 4)
    if name.endswith("_stride"):
        return "i64"
    if name in SIZES:
        return "i32"
    if name in ("scale", "epsilon"):
        return "fp32"
    return POINTERS.get(name) or ("*fp32" if name in FLOATS else f"*{element}")


def use_cache(folder):
    os.environ["TRITON_CACHE_DIR"] = str(folder)


@pytest.mark.parametrize(
    "jobs", [attention_jobs, pool_jobs, gemm_jobs, other_jobs], ids=["attention", "pool", "gemm", "others"]
)
def test_every_shipped_configuration_compiles_without_a_stack(jobs, tmp_path):
    pairs = [(job, target) for job in jobs() for target in TARGETS]
    with ProcessPoolExecutor(2, get_context("spawn"), use_cache, (tmp_path,)) as pool:
        found = list(pool.map(compiled, *zip(*pairs, strict=True)))
    lines = []
    for (job, target), (registers, stack) in zip(pairs, found, strict=True):
        what = f"{job.kernel} {job.element} {job.constants} without {job.without}, {job.warps} warps"
        lines.append(f"{what}, sm_{target}: {registers} registers, {stack} bytes of stack")
    print("\n".join(lines))
    spilled = [line for line, (_, stack) in zip(lines, found, strict=True) if stack]
    assert not spilled, "\n".join(spilled)

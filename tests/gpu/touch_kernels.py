"""Runs the kernels of a backend on small odd shapes, forward and backward; for compute-sanitizer, which watches it.

python -m tests.gpu.touch_kernels BACKEND DEVICE
"""

from __future__ import annotations

import os
import sys

import torch

from tests.ops import row_cases
from tests.ops.cases import make_case

HALF = (torch.float16, torch.bfloat16)
SHAPES = ((1, 1, 8), (17, 61, 44), (61, 17, 64), (33, 144, 128), (144, 144, 32), (40, 300, 64))
"""Queries, keys, features; the backward of the last, and of 144 keys of 128 features, goes over the keys in passes."""


def touch_attention(backend: str) -> None:
    for queries, keys, dim in SHAPES:
        for mask, bias in ((None, False), ("scattered", True)):
            for dtype in HALF:
                make_case(queries, keys, dim, mask, bias=bias).run(backend, dtype)


def touch_rows(backend: str) -> None:
    """Tokens, with the check of their index on the GPU and without; pooling and the row MLP where there are kernels."""
    for dtype in (torch.float32, *HALF):
        for wanted in ("0", "1"):
            os.environ["EOKIT_CHECK"] = wanted
            for own, dim in ((True, 45), (False, 48)):
                tokens, index = row_cases.make_tokens(3, 190, 7, dim, own)
                row_cases.run_tokens(backend, dtype, tokens, index)
        if backend == "triton":
            series = row_cases.make_series(2, 3, 19, 4, 6, mask="pixels")
            row_cases.run_pool(backend, dtype, series, torch.randn(2, 3, 24))
            row_cases.run_mlp(backend, dtype, row_cases.make_rows(67, (10, 96, 32)), 4, torch.randn(67, 32))


def main(backend: str, device: str) -> None:
    torch.set_default_device(device)
    touch_attention(backend)
    touch_rows(backend if backend in ("cuda", "triton") else "reference")
    if device == "cuda":
        torch.cuda.synchronize()
    print("touched")


if __name__ == "__main__":
    main(*sys.argv[1:])

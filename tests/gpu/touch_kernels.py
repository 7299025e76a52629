"""Runs the kernels of a backend on small odd shapes, forward and backward; for compute-sanitizer, which watches it.

python touch_kernels.py BACKEND DEVICE
"""

from __future__ import annotations

import sys

import torch

from tests.ops import row_cases
from tests.ops.cases import make_case


def main(backend: str, device: str) -> None:
    torch.set_default_device(device)
    for queries, keys, dim in ((1, 1, 8), (17, 61, 44), (61, 17, 64), (33, 144, 128), (144, 144, 32)):
        for mask, bias in ((None, False), ("scattered", True)):
            make_case(queries, keys, dim, mask, bias=bias).run(backend, torch.float16)
    tokens, index = row_cases.make_tokens(3, 19, 7, 45, True)
    row_cases.run_tokens(backend if backend in ("cuda", "triton") else None, torch.float16, tokens, index)
    if device == "cuda":
        torch.cuda.synchronize()
    print("touched")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The examples of docs/ops.md run, one after the other, as a reader would run them."""

import re
from pathlib import Path

import torch

OPS = Path(__file__).resolve().parents[2] / "docs" / "ops.md"


def test_the_examples_of_the_ops_run():
    blocks = re.findall(r"```python\n(.*?)```", OPS.read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["along_time"].shape == names["along_space"].shape == names["x"].shape
    assert names["visible"].shape == (2, 16, 128)
    assert names["grid"].shape == (2, 64, 128)
    assert names["pooled"].shape == (2, 100, 64)
    assert names["rows"].shape == (1000, 128)
    torch.testing.assert_close(names["exact"].transpose(1, 2).float(), torch_attention(names["series"]))


def torch_attention(series):
    heads_first = series.transpose(-3, -2)
    out = torch.nn.functional.scaled_dot_product_attention(heads_first, heads_first, heads_first)
    return out.transpose(-3, -2).transpose(1, 2)

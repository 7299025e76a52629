"""Elements more than 2^31 apart: offsets are of 64 bits. Memory that is never touched is never taken."""

import pytest
import torch

from eokit.ops import attention, gather_tokens, scatter_tokens
from tests.ops.conftest import compiled

FAR = 2**31 + 64
pytestmark = compiled


@pytest.fixture(scope="module")
def memory():
    """4.3 GB of addresses, of which the tests touch a few pages."""
    return torch.empty(2 * FAR, dtype=torch.bfloat16)


def test_attention_reads_dates_that_are_far_apart(memory):
    near = torch.randn(1, 2, 1, 64).bfloat16()
    q = memory.as_strided((1, 2, 1, 64), (64, FAR, 64, 1)).copy_(near)
    torch.testing.assert_close(attention(q, q, q), attention(near, near, near), rtol=0, atol=0)


def test_attention_reads_sequences_that_are_far_apart(memory):
    near = torch.randn(2, 5, 2, 32).bfloat16()
    q = memory.as_strided((2, 5, 2, 32), (FAR, 64, 32, 1)).copy_(near)
    torch.testing.assert_close(attention(q, q, q), attention(near, near, near), rtol=0, atol=0)


def test_tokens_are_gathered_from_far_away(memory):
    near = torch.randn(2, 3, 64).bfloat16()
    x = memory.as_strided((2, 3, 64), (FAR, 64, 1)).copy_(near)
    index = torch.tensor([[2, 0], [1, 2]])
    assert gather_tokens(x, index).equal(gather_tokens(near, index))
    token = torch.zeros(64).bfloat16()
    far, index = memory.as_strided((2, 2, 64), (FAR, 64, 1)).copy_(near[:, :2]), torch.tensor([[3, 1], [0, 4]])
    assert scatter_tokens(far, index, 5, token).equal(scatter_tokens(near[:, :2], index, 5, token))

"""A short training with the kernels and one with plain torch learn the same."""

import pytest
import torch

from eokit.nn.blocks import AlternatingBlocks
from eokit.ops import use_backend


def losses(backend: str | None, steps: int) -> torch.Tensor:
    """The loss of every step of learning which of the dates of a masked series is the brightest."""
    torch.manual_seed(0)
    blocks, head = AlternatingBlocks(32, 2, 4), torch.nn.Linear(32, 1)
    optimizer = torch.optim.AdamW([*blocks.parameters(), *head.parameters()], lr=3e-3)
    found = []
    with use_backend(backend):
        for _ in range(steps):
            x, mask = torch.randn(8, 6, 4, 32), torch.rand(8, 6, 4) > 0.2
            mask[:, 0] = True
            target = x[..., 0].masked_fill(~mask, float("-inf")).argmax(1)  # (8, 4)
            scores = head(blocks(x, mask))[..., 0].masked_fill(~mask, -1e4)
            loss = torch.nn.functional.cross_entropy(scores, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
    return torch.stack(found)


@pytest.mark.slow
def test_training_with_and_without_the_kernels_agrees():
    ours, plain = losses(None, 120), losses("reference", 120)
    torch.testing.assert_close(ours[:20], plain[:20], rtol=1e-4, atol=1e-4)
    assert ours[-20:].mean() < 0.7 * ours[:5].mean()  # it did learn
    torch.testing.assert_close(ours[-20:].mean(), plain[-20:].mean(), rtol=0.05, atol=0.0)

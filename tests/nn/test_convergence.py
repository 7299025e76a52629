"""A short training with the kernels and one with plain torch learn the same."""

import pytest
import torch
from torch import nn

from eokit.nn.blocks import AlternatingBlocks
from eokit.ops import gather_tokens, info_nce, row_mlp, scatter_tokens, temporal_pool, use_backend


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


class MaskedSeries(nn.Module):
    """Series of pixels (B, N, T, C) -> features (B, N, D), most pixels being hidden: every op but attention."""

    def __init__(self, bands: int, width: int, heads: int, pixels: int) -> None:
        super().__init__()
        self.project, self.norm = nn.Linear(bands, width), nn.GroupNorm(4, width)
        self.queries = nn.Parameter(torch.randn(heads, width) / width**0.5)
        self.mask_token, self.positions = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.randn(pixels, width))
        self.mix, self.head = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        layer = self.project.weight, self.project.bias, self.norm.weight, self.norm.bias
        rows = row_mlp(x.flatten(0, 2), [layer]).unflatten(0, x.shape[:3])  # (B, N, T, D)
        dates = torch.linspace(0, 1, x.shape[2])[:, None].expand(len(x), -1, rows.shape[-1] // len(self.queries))
        tokens = temporal_pool(rows, self.queries, dates.contiguous())  # (B, N, D)
        seen = self.mix(gather_tokens(tokens, visible, self.positions)).relu()
        around = seen.mean(1, keepdim=True)
        grid = scatter_tokens(seen, visible, x.shape[1], self.mask_token.to(seen.dtype), self.positions)
        return self.head(torch.tanh(grid + around))


def contrastive_losses(backend: str | None, steps: int, half: bool) -> torch.Tensor:
    """The loss of every step of telling apart samples, seen twice with noise and with other pixels hidden."""
    torch.manual_seed(0)
    model = MaskedSeries(3, 16, 2, 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    with use_backend(backend):
        for _ in range(steps):
            x = torch.randn(12, 1, 1, 3).expand(12, 6, 5, 3)
            views = [x + 0.1 * torch.randn(x.shape) for _ in range(2)]
            visible = [torch.rand(12, 6).argsort(1)[:, :3] for _ in range(2)]
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                a, b = (model(view, index).mean(1) for view, index in zip(views, visible, strict=True))
                loss = info_nce(a, b, temperature=0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
    return torch.stack(found)


@pytest.mark.parametrize("half", [False, True])
def test_training_through_every_op_agrees_with_plain_torch(half):
    ours, plain = contrastive_losses(None, 80, half), contrastive_losses("reference", 80, half)
    tolerance = 0.02 if half else 1e-4
    torch.testing.assert_close(ours[:10], plain[:10], rtol=tolerance, atol=tolerance)
    assert ours[-10:].mean() < 0.7 * ours[:5].mean()  # it did learn
    torch.testing.assert_close(ours[-10:].mean(), plain[-10:].mean(), rtol=0.1 if half else 0.02, atol=0.0)

"""Blocks that attend along space or time on views do what the naive rearrangement does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import eokit.nn.blocks
from eokit.errors import ArgumentError
from eokit.nn.blocks import AlternatingBlocks, Attention, Block, DropPath
from eokit.ops import attention

B, T, N, D, HEADS = 2, 5, 7, 24, 3


def naive_block(block: Block, x: Tensor, key_mask: Tensor) -> Tensor:
    """The block over (sequences, L, D), contiguous, with torch's own attention; rows without keys attend to nothing."""
    sequences, length, width = x.shape
    qkv = block.attention.qkv(block.norm1(x)).reshape(sequences, length, 3, HEADS, width // HEADS)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous()
    some = key_mask.any(-1)[:, None, None, None]
    mask = key_mask[:, None, None, :] | ~some
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask) * some
    x = x + block.attention.projection(out.transpose(1, 2).reshape(sequences, length, width))
    return x + block.mlp(block.norm2(x))


@pytest.fixture
def block():
    torch.manual_seed(0)
    block = Block(D, HEADS, mlp_ratio=2.0)
    for one in block.parameters():
        torch.nn.init.normal_(one, std=0.3)
    return block


@pytest.fixture
def tokens():
    torch.manual_seed(1)
    key_mask = torch.rand(B, T, N) > 0.3
    key_mask[0, 2], key_mask[1, :, 3] = False, False  # a date and a place that nobody saw
    return torch.randn(B, T, N, D), key_mask


def test_attending_along_space_equals_the_naive_rearrangement(block, tokens):
    x, key_mask = tokens
    expected = naive_block(block, x.reshape(B * T, N, D), key_mask.reshape(B * T, N)).reshape(B, T, N, D)
    torch.testing.assert_close(block(x, key_mask, "space"), expected, atol=1e-5, rtol=1e-5)


def test_attending_along_time_equals_the_naive_rearrangement(block, tokens):
    x, key_mask = tokens
    rows = x.permute(0, 2, 1, 3).reshape(B * N, T, D)
    expected = naive_block(block, rows, key_mask.permute(0, 2, 1).reshape(B * N, T))
    expected = expected.reshape(B, N, T, D).permute(0, 2, 1, 3)
    torch.testing.assert_close(block(x, key_mask, "time"), expected, atol=1e-5, rtol=1e-5)


def test_attending_along_both_equals_one_sequence_of_all_tokens(block, tokens):
    x, key_mask = tokens
    expected = naive_block(block, x.reshape(B, T * N, D), key_mask.reshape(B, T * N)).reshape(B, T, N, D)
    torch.testing.assert_close(block(x, key_mask, "both"), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("along", ["space", "time", "both"])
def test_the_gradient_equals_that_of_the_naive_rearrangement(block, tokens, along):
    x, key_mask = (one[:1, :, :1] if along == "time" else one[:1, :1] for one in tokens)  # one sequence either way
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(x.shape)
    (block(ours, key_mask, along) * weights).sum().backward()
    rows = naive_block(block, theirs.reshape(1, -1, D), key_mask.reshape(1, -1)).reshape(x.shape)
    (rows * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("along", ["space", "time", "both"])
def test_masked_tokens_are_seen_by_nobody_else(block, tokens, along):
    x, key_mask = tokens
    changed = torch.where(key_mask[..., None], x, torch.randn_like(x))
    before, after = (block(one, key_mask, along) for one in (x, changed))
    assert torch.equal(before[key_mask], after[key_mask])


@pytest.mark.parametrize("along", ["space", "time", "both"])
def test_attention_reads_views_of_the_projection_and_its_output_is_not_copied(tokens, along, monkeypatch):
    layer, storage = Attention(D, HEADS), {}

    def spy(q, k, v, **kwargs):
        storage["read"] = {one.untyped_storage().data_ptr() for one in (q, k, v)}
        out = attention(q, k, v, **kwargs)
        storage["written"] = out.untyped_storage().data_ptr()
        return out

    monkeypatch.setattr(eokit.nn.blocks, "attention", spy)
    layer.qkv.register_forward_hook(lambda _, args, out: storage.update(qkv=out.untyped_storage().data_ptr()))
    layer.projection.register_forward_pre_hook(
        lambda _, args: storage.update(projected=args[0].untyped_storage().data_ptr())
    )
    layer(*tokens, along)
    assert storage["read"] == {storage["qkv"]}
    assert storage["projected"] == storage["written"]


@pytest.mark.parametrize("order", ["st", "ts", "joint"])
def test_inference_in_pieces_equals_the_whole(order, tokens, monkeypatch):
    trunk = AlternatingBlocks(D, 4, HEADS, order=order).eval()
    x, key_mask = tokens
    whole = trunk(x, key_mask)  # with gradients: never in pieces
    monkeypatch.setattr(eokit.nn.blocks, "PIECE", 2 * B * N)  # two dates, two places, or less than a sample
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(trunk(x, key_mask), whole, atol=1e-5, rtol=0)
    assert torch.equal(x, before)


def test_heads_must_divide_the_width():
    with pytest.raises(ArgumentError, match="width 30 does not divide into 4 heads"):
        Attention(30, 4)


def test_drop_path_does_nothing_in_evaluation():
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 2))
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)  # 4000 draws: three standard errors are 0.027


def test_drop_path_grows_from_nothing_to_the_rate_of_the_last_block():
    trunk = AlternatingBlocks(8, 5, 2, drop_path=0.2)
    assert [one.drop_path.rate for one in trunk.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_an_unknown_order_is_refused():
    with pytest.raises(ArgumentError, match="order 'zigzag' is unknown; it is one of st, ts, joint"):
        AlternatingBlocks(8, 2, 2, order="zigzag")

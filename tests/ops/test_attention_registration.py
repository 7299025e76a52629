"""eokit::attention_* as torch sees them: schema, fake kernels, gradients, compilation."""

import pytest
import torch

from eokit.ops import attention
from tests.ops.conftest import compiled


def inputs(mask=None, requires_grad=True, shape=(2, 5, 3, 2, 16), bias=False):
    """Temporal views of a fused projection (B, T, N, 3, H, D)."""
    torch.manual_seed(0)
    batch, dates, positions, heads, dim = shape
    qkv = torch.randn(batch, dates, positions, 3, heads, dim)
    q, k, v = (x.detach().transpose(1, 2).requires_grad_(requires_grad) for x in qkv.unbind(-3))
    if mask:
        mask = (torch.rand(batch, 1, dates) > 0.4).expand(batch, positions, dates)
    bias_t = torch.randn(batch, 1, heads, dates, dates, requires_grad=requires_grad) if bias else None
    return q, k, v, mask, bias_t, 0.25


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [None, "dates"])
def test_the_forward_op_passes_opcheck(mask, bias):
    torch.library.opcheck(torch.ops.eokit.attention_forward.default, inputs(mask, bias=bias))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [None, "dates"])
def test_the_backward_op_passes_opcheck(mask, bias):
    q, k, v, mask, bias_t, scale = inputs(mask, requires_grad=False, bias=bias)
    out, lse = torch.ops.eokit.attention_forward(q, k, v, mask, bias_t, scale)
    arguments = (torch.randn_like(out), q, k, v, mask, bias_t, out, lse, scale, bias)
    torch.library.opcheck(torch.ops.eokit.attention_backward.default, arguments)


@compiled
@pytest.mark.parametrize("name", ["grad_out", "out", "lse"])
def test_the_backward_op_refuses_tensors_of_another_length(name):
    q, k, v, _, _, scale = inputs(requires_grad=False)
    out, lse = torch.ops.eokit.attention_forward(q, k, v, None, None, scale)
    given = {
        "grad_out": torch.randn_like(out),
        "q": q,
        "k": k,
        "v": v,
        "mask": None,
        "bias": None,
        "out": out,
        "lse": lse,
    }
    shorter = given[name][..., :4].contiguous() if name == "lse" else given[name][..., :4, :, :]
    with pytest.raises(RuntimeError, match=f"{name}: "):
        torch.ops.eokit.attention_backward(*(given | {name: shorter}).values(), scale, False)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_reference_passes_gradcheck(masked, biased):
    q, k, v = (torch.randn(2, n, 2, 4, dtype=torch.float64, requires_grad=True) for n in (3, 4, 4))
    bias = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) if biased else None
    mask = torch.tensor([[True, False, True, True], [False] * 4]) if masked else None

    def function(q, k, v, bias):
        return attention(q, k, v, key_mask=mask, bias=bias, backend="reference")

    assert torch.autograd.gradcheck(function, (q, k, v, bias))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_compiles_as_one_graph_with_the_same_results(dtype):
    q, k, v, mask, *_ = inputs("dates")
    leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]

    def layer(q, k, v):
        return attention(q * 2, k, v, key_mask=mask[:, :1]).transpose(1, 2).flatten(-2) + 1

    expected = layer(*leaves)
    out = torch.compile(layer, fullgraph=True)(*leaves)
    torch.testing.assert_close(out, expected)
    grads = zip(torch.autograd.grad(out.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True)
    for ours, theirs in grads:
        torch.testing.assert_close(ours, theirs)


def test_it_is_captured_as_one_graph():
    q, k, v, mask, *_ = inputs("dates")
    run = torch.compile(lambda *x: attention(*x, key_mask=mask[:, :1]), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(q, k, v), attention(q, k, v, key_mask=mask[:, :1]))


@compiled
def test_the_log_sum_of_a_sequence_without_keys_is_plus_infinity():
    q, k, v, *_, scale = inputs(requires_grad=False)
    nothing = torch.zeros(2, 3, 5, dtype=torch.bool)
    assert (torch.ops.eokit.attention_forward(q, k, v, nothing, None, scale)[1] == float("inf")).all()


def test_the_log_sum_is_that_of_the_scores():
    q, k, v, *_, scale = inputs(requires_grad=False)
    lse = torch.ops.eokit.attention_forward(q, k, v, None, None, scale)[1]
    scores = torch.einsum("...ihd,...jhd->...hij", q, k) * scale
    torch.testing.assert_close(lse, scores.logsumexp(-1))


def test_a_gradient_with_stride_zero_is_taken():
    q, k, v, *_ = inputs()
    summed = torch.autograd.grad(attention(q, k, v).sum(), (q, k, v))
    ones = torch.autograd.grad(attention(q, k, v), (q, k, v), torch.ones(q.shape))
    for ours, theirs in zip(summed, ones, strict=True):
        torch.testing.assert_close(ours, theirs)

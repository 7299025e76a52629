"""Linear, group norm and ReLU, several times over, on millions of short rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eokit.errors import ArgumentError
from eokit.ops import library
from eokit.ops.row_mlp import blocked, reference
from eokit.ops.wiring import without_autocast

__all__ = ["row_mlp"]


def row_mlp(x: Tensor, layers: Sequence[Sequence[Tensor]], *, groups: int = 4, epsilon: float = 1e-5) -> Tensor:
    """Rows through layers of relu(group_norm(x weight^T + bias) * gain + shift), statistics of a group of a row.

    x: (R, C). layers: of (weight (C', C), bias (C'), gain (C'), shift (C')); weight and bias are taken in the dtype of
    x, gain, shift and statistics in float32 (float64 for float64). groups: of equal width in every layer.

    Returns (R, last C') in the dtype of x. A block of rows goes through all layers before the next, so that memory is
    that of x and the result, in training too: the backward makes each block's activations again. Gradients for x and
    all layers, deterministic. Autocast does not reach inside: x says what is computed in. AnySat's projector of
    pixel-dates (Astruc et al. 2024, arXiv 2412.14123).

    Raises ArgumentError naming the wrong argument.
    """
    _check(x, layers, groups, epsilon)
    if not library.runs_kernels(x):
        with without_autocast(x):
            return reference.row_mlp(x, layers, groups, epsilon)
    weights, biases = ([layer[i].to(x.dtype) for layer in layers] for i in (0, 1))
    gains, shifts = ([layer[i].float().contiguous() for layer in layers] for i in (2, 3))
    return blocked.row_mlp_forward(x.contiguous(), weights, biases, gains, shifts, groups, epsilon)


def _check(x: Tensor, layers: Sequence[Sequence[Tensor]], groups: int, epsilon: float) -> None:
    if x.dim() != 2 or not x.is_floating_point():
        raise ArgumentError(f"x is {x.dtype} {tuple(x.shape)}, expected floating rows (R, C)")
    if not layers:
        raise ArgumentError("layers is empty, expected one or more of (weight, bias, gain, shift)")
    if not epsilon > 0:
        raise ArgumentError(f"epsilon is {epsilon}, expected a number above 0")
    inputs = x.shape[1]
    for number, layer in enumerate(layers):
        if len(layer) != 4:
            raise ArgumentError(f"layers[{number}] has {len(layer)} tensors, expected (weight, bias, gain, shift)")
        weight = layer[0]
        if weight.dim() != 2 or weight.shape[1] != inputs:
            raise ArgumentError(
                f"the weight of layers[{number}] has shape {tuple(weight.shape)}, expected (C', {inputs})"
            )
        inputs = weight.shape[0]
        if groups < 1 or inputs % groups:
            raise ArgumentError(f"groups is {groups}, expected a divisor of the {inputs} features of layers[{number}]")
        for name, one in zip(("bias", "gain", "shift"), layer[1:], strict=True):
            if one.shape != (inputs,):
                raise ArgumentError(
                    f"the {name} of layers[{number}] has shape {tuple(one.shape)}, expected ({inputs},)"
                )
        for name, one in zip(("weight", "bias", "gain", "shift"), layer, strict=True):
            if one.device != x.device or not one.is_floating_point():
                found = f"{one.dtype} on {one.device}"
                raise ArgumentError(f"the {name} of layers[{number}] is {found}, expected floating on {x.device}")

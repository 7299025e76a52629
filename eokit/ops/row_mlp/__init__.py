"""Linear, group norm and ReLU, several times over, on millions of short rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from eokit.errors import ArgumentError
from eokit.ops import library
from eokit.ops.checks import FLOATING, check_number, check_tensors, check_whole
from eokit.ops.row_mlp import blocked, reference
from eokit.ops.wiring import without_autocast

__all__ = ["row_mlp"]

PARTS = ("weight", "bias", "gain", "shift")
"""Of a layer."""


def row_mlp(x: Tensor, layers: Sequence[Sequence[Tensor]], *, groups: int = 4, epsilon: float = 1e-5) -> Tensor:
    """Rows through layers of relu(group_norm(x weight^T + bias) * gain + shift), statistics of a group of a row.

    x: (R, C), copied if it is not contiguous. layers: of (weight (C', C), bias (C'), gain (C'), shift (C')); weight
    and bias are taken in the dtype of x, gain, shift and statistics in float32 (float64 for float64). groups: of equal
    width in every layer.

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
    check_tensors(x=x)
    if x.dim() != 2 or x.dtype not in FLOATING:
        raise ArgumentError(f"x is {x.dtype} {tuple(x.shape)}, expected floating rows (R, C)")
    if isinstance(layers, Tensor) or not hasattr(layers, "__len__") or not len(layers):
        found = "empty" if isinstance(layers, Sequence) else f"of type {type(layers).__name__}"
        raise ArgumentError(f"layers is {found}, expected one or more of (weight, bias, gain, shift)")
    check_number("epsilon", epsilon, above=0)
    check_whole("groups", groups, least=1)
    inputs = x.shape[1]
    for number, layer in enumerate(layers):
        inputs = _check_layer(f"layers[{number}]", layer, x, inputs)
        if inputs % groups:
            raise ArgumentError(f"groups is {groups}, expected a divisor of the {inputs} features of layers[{number}]")


def _check_layer(label: str, layer: Sequence[Tensor], x: Tensor, inputs: int) -> int:
    """How many features the layer gives."""
    if isinstance(layer, Tensor) or not hasattr(layer, "__len__"):
        raise ArgumentError(f"{label} is of type {type(layer).__name__}, expected (weight, bias, gain, shift)")
    if len(layer) != 4:
        raise ArgumentError(f"{label} has {len(layer)} tensors, expected (weight, bias, gain, shift)")
    for name, one in zip(PARTS, layer, strict=True):
        if not isinstance(one, Tensor):
            raise ArgumentError(f"the {name} of {label} is of type {type(one).__name__}, expected a tensor")
    weight = layer[0]
    if weight.dim() != 2 or weight.shape[1] != inputs:
        raise ArgumentError(f"the weight of {label} has shape {tuple(weight.shape)}, expected (C', {inputs})")
    outputs = weight.shape[0]
    for name, one in zip(PARTS, layer, strict=True):
        if one is not weight and one.shape != (outputs,):
            raise ArgumentError(f"the {name} of {label} has shape {tuple(one.shape)}, expected ({outputs},)")
        if one.device != x.device or one.dtype not in FLOATING:
            raise ArgumentError(
                f"the {name} of {label} is {one.dtype} on {one.device}, expected floating on {x.device}"
            )
    return outputs

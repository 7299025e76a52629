"""Contrastive losses whose logits are not all in memory, but where they are few."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eokit.errors import ArgumentError
from eokit.ops import library
from eokit.ops.checks import FLOATING, INTEGERS, check_device, check_number, check_tensors
from eokit.ops.losses import reference, streamed, whole
from eokit.ops.wiring import without_autocast

__all__ = ["dino_cross_entropy", "info_nce", "mil_nce"]


def info_nce(a: Tensor, b: Tensor, *, positives: Tensor | None = None, temperature: float = 0.1) -> Tensor:
    """Mean over rows i with positives P(i) of: log sum_j exp(s_ij) - mean over P(i) of s_ij, s = a b^T / temperature.

    a: (N, D), b: (M, D), features, normalised by the caller if cosines are meant. positives: bool (N, M); without it
    P(i) = {i}, and N = M. This is InfoNCE (van den Oord et al. 2018, arXiv 1807.03748), with several positives the
    "out" form of Khosla et al. 2020 (arXiv 2004.11362, equation 2).

    Memory: O(N + M) beside the inputs; few logits (up to 4 million) are held, which is faster. Computed in float32
    (float64 for float64), within autocast too. The products are torch's, so the last bits of large gradients depend on
    the number of threads. Returns a scalar, 0 where no row has positives. Raises ArgumentError naming the wrong
    argument.
    """
    check_tensors(a=a, b=b, positives=positives)
    _check_features("a", a, "b", b)
    check_number("temperature", temperature, above=0)
    check_device("a", a, positives=positives)
    if positives is None and len(a) != len(b):
        raise ArgumentError(f"b has {len(b)} rows, expected the {len(a)} of a; or give positives")
    if positives is not None and (positives.dtype != torch.bool or positives.shape != (len(a), len(b))):
        raise ArgumentError(
            f"positives is {positives.dtype} {tuple(positives.shape)}, expected torch.bool {(len(a), len(b))}"
        )
    a, b = _wide(a), _wide(b)
    if library.default_backend() == "reference":
        matrix = torch.eye(len(a), dtype=torch.bool, device=a.device) if positives is None else positives
        with without_autocast(a):
            return reference.info_nce(a, b, matrix, temperature=temperature)
    if whole.fits(a, b):
        losses, used, _ = whole.nce_whole(a, b, positives, None, None, temperature, False, whole.keeps(a, b))
        return losses.sum() / used.sum().clamp(min=1)
    losses, _, count = streamed.nce_forward(a, b, positives, None, None, None, None, temperature, False)
    return losses.sum() / (count > 0).sum().clamp(min=1)


def mil_nce(features: Tensor, group: Tensor, *, block: Tensor | None = None, temperature: float = 0.1) -> Tensor:
    """Mean over rows with positives of: log sum over candidates of exp(s_ij) - log sum over positives of exp(s_ij).

    features: (N, D), compared with themselves: s = features features^T / temperature. block: int (N,); the candidates
    of row i are all j with another block (without it: all but i itself). group: int (N,); positives are the candidates
    of the same group. AnySat: group = the patch, block = sample and modality. MIL-NCE: Miech et al. 2020 (arXiv
    1912.06430).

    Memory, precision, errors and the result as for `info_nce`; on a CPU up to 65,536 logits are held.
    """
    check_tensors(features=features, group=group, block=block)
    _check_features("features", features, "features", features)
    check_number("temperature", temperature, above=0)
    check_device("features", features, group=group, block=block)
    block = torch.arange(len(features), device=features.device) if block is None else block
    for name, ids in (("group", group), ("block", block)):
        if ids.dtype not in INTEGERS or ids.shape != (len(features),):
            raise ArgumentError(f"{name} is {ids.dtype} {tuple(ids.shape)}, expected integers {(len(features),)}")
    a = _wide(features)
    if library.default_backend() == "reference":
        with without_autocast(a):
            return reference.mil_nce(a, group, block, temperature=temperature)
    if whole.fits(a, a, by_ids=True):
        losses, used, _ = whole.nce_whole(a, a, None, group, block, temperature, True, whole.keeps(a))
        return losses.sum() / used.sum().clamp(min=1)
    order = group.argsort(stable=True)  # then positives stand in few tiles
    a, group, block = a[order], group[order], block[order]
    losses, _, near = streamed.nce_forward(a, a, None, group, group, block, block, temperature, True)
    return losses.sum() / (near > -math.inf).sum().clamp(min=1)


def dino_cross_entropy(
    student: Tensor,
    prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    *,
    center: Tensor | None = None,
    temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Mean over rows of -sum_k p_k log softmax(s / temperature)_k, p = softmax((t - center) / teacher_temperature).

    student: (N, D) and teacher: (N, E), features of the same N views; prototypes: (K, D), teacher_prototypes: (K, E);
    the logits s and t are features prototypes^T. center: (K,), 0 unless told. No gradient goes to the teacher's
    arguments. DINO: Caron et al. 2021 (arXiv 2104.14294), its temperatures the defaults.

    Memory: O(N + K) beside the inputs. That of few logits, precision, errors and the result as for `info_nce`.
    """
    given = {"prototypes": prototypes, "teacher": teacher, "teacher_prototypes": teacher_prototypes, "center": center}
    check_tensors(student=student, **given)
    check_device("student", student, **given)
    _check_features("student", student, "prototypes", prototypes)
    _check_features("teacher", teacher, "teacher_prototypes", teacher_prototypes)
    if len(teacher) != len(student):
        raise ArgumentError(f"teacher has {len(teacher)} rows, expected the {len(student)} of student")
    if len(teacher_prototypes) != len(prototypes) or not len(prototypes):
        found = f"prototypes has {len(prototypes)} rows and teacher_prototypes {len(teacher_prototypes)}"
        raise ArgumentError(f"{found}, expected the same number, not 0")
    if center is not None and (center.shape != (len(prototypes),) or center.dtype not in FLOATING):
        raise ArgumentError(f"center is {center.dtype} {tuple(center.shape)}, expected floating {(len(prototypes),)}")
    check_number("temperature", temperature, above=0)
    check_number("teacher_temperature", teacher_temperature, above=0)
    student, prototypes = _wide(student), _wide(prototypes)
    teacher, teacher_prototypes = (x.detach().to(student.dtype) for x in (teacher, teacher_prototypes))
    center = student.new_zeros(len(prototypes)) if center is None else center.detach().to(student.dtype)
    wide = (student, prototypes, teacher, teacher_prototypes, center)
    if library.default_backend() != "reference":
        options = temperature, teacher_temperature
        if whole.fits(student, prototypes):
            losses = whole.dino_whole(*wide, *options, whole.keeps(student, prototypes))[0]
        else:
            losses = streamed.dino_forward(*wide, *options)[0]
        return losses.sum() / max(len(student), 1)
    with without_autocast(student):
        return reference.dino_cross_entropy(*wide, temperature=temperature, teacher_temperature=teacher_temperature)


def _wide(x: Tensor) -> Tensor:
    """float32 or float64; autocast does not reach inside."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_features(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    for label, one in ((name, x), (other_name, other)):
        if one.dim() != 2 or one.dtype not in FLOATING:
            raise ArgumentError(f"{label} is {one.dtype} {tuple(one.shape)}, expected floating features (rows, D)")
    if other.shape[1] != x.shape[1]:
        raise ArgumentError(f"{other_name} has {other.shape[1]} features, expected the {x.shape[1]} of {name}")
    mixed = other.dtype != x.dtype and torch.float64 in (x.dtype, other.dtype)  # the others all become float32
    if mixed or other.device != x.device:
        raise ArgumentError(
            f"{other_name} is {other.dtype} on {other.device}, expected {x.dtype} on {x.device} as {name}"
        )

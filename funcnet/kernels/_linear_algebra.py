"""Functions of torch.linalg whose directional derivative torch cannot differentiate rightly, composed of others.

The kernels save a factorisation for their derivative, and take it for a constant in the derivative of a directional
derivative. Here the factorisation is a step of its own, which is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """``torch.linalg.solve`` in its own bits: the X for which ``A X = B``, or ``X A = B`` if it is not ``left``."""
    is_vector = B.dim() == 1 or (A.dim() - 1 == B.dim() and B.shape == A.shape[:-1])
    lu, pivots = torch.linalg.lu_factor(A)
    columns = B.unsqueeze(-1) if is_vector else B
    X = torch.linalg.lu_solve(lu, pivots, columns, left=left)
    return X.squeeze(-1) if is_vector else X


def _factorise(A: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal of U in ``P L U = A``, and the determinant of P."""
    lu, pivots, _ = torch.linalg.lu_factor_ex(A)
    places = torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)
    parity = (pivots != places).sum(-1) % 2
    return lu.diagonal(dim1=-2, dim2=-1), 1 - 2 * parity


def det(A: Tensor) -> Tensor:
    """``torch.linalg.det``."""
    diagonal, sign = _factorise(A)
    return diagonal.prod(-1) * sign


def slogdet(A: Tensor) -> Any:
    """``torch.linalg.slogdet``: the sign of the determinant, and the logarithm of its size."""
    diagonal, sign = _factorise(A)
    pair = (diagonal.sgn().prod(-1) * sign, diagonal.abs().log().sum(-1))
    return torch.return_types.linalg_slogdet(pair)  # type: ignore[attr-defined]


def logdet(A: Tensor) -> Tensor:
    """``torch.logdet``."""
    sign, logarithm = slogdet(A)
    return torch.where(sign < 0, torch.nan, logarithm) if not sign.is_complex() else logarithm + sign.log()


def householder_product(input: Tensor, tau: Tensor) -> Tensor:
    """``torch.linalg.householder_product``: the first columns of the product of reflections ``I - tau_i v_i v_i^H``."""
    rows, columns = input.shape[-2:]
    eye = torch.eye(rows, columns, dtype=input.dtype, device=input.device)
    vectors = input.tril(-1) + eye
    product = eye.expand_as(input)
    for index in reversed(range(tau.shape[-1])):
        v = vectors[..., index : index + 1]
        product = product - tau[..., index, None, None] * v @ (v.mH @ product)
    return product


KERNELS: dict[Callable[..., Any], tuple[Any, ...]] = {
    solve: (torch.linalg.solve,),
    det: (torch.linalg.det, torch.det, Tensor.det),
    slogdet: (torch.linalg.slogdet, torch.slogdet, Tensor.slogdet),
    logdet: (torch.logdet, Tensor.logdet),
    householder_product: (torch.linalg.householder_product, torch.orgqr, Tensor.orgqr),
}
"""A composed function -> the functions of torch that compute the same."""

"""Maps onto matrices with orthonormal columns. Axes: n rows, k columns, n >= k, batches in front."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from funcnet._context import is_differentiated_twice, under_vmap
from funcnet.kernels import householder_product as composed_product
from funcnet.kernels import solve as composed_solve


def matrix_exp(X: Tensor) -> Tensor:
    """The exponential of the skew-symmetric matrix whose lower triangle is that of X."""
    return torch.matrix_exp(_skew_symmetric(X))[..., : X.size(-1)]


def cayley(X: Tensor) -> Tensor:
    """``(I + A/2) (I - A/2)^-1`` for the skew-symmetric matrix A whose lower triangle is that of X."""
    A = _skew_symmetric(X)
    eye = torch.eye(A.size(-1), dtype=A.dtype, device=A.device)
    solve = composed_solve if is_differentiated_twice(X) else torch.linalg.solve
    Q = solve(torch.add(eye, A, alpha=-0.5), torch.add(eye, A, alpha=0.5))
    return Q[..., : X.size(-1)]


def householder(X: Tensor) -> Tensor:
    """The product of the reflections along the columns below the diagonal of X, with the signs on that diagonal."""
    A = X.tril(diagonal=-1)
    if under_vmap():  # the backward formula of the kernel writes in place, and vmap has no rule for that
        Q = _multiply_reflections(A)
    else:
        multiply = composed_product if is_differentiated_twice(X) else torch.linalg.householder_product
        Q = multiply(A, 2.0 / (1.0 + (A * A).sum(dim=-2)))
    return Q * X.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)


MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "matrix_exp": matrix_exp,
    "cayley": cayley,
    "householder": householder,
}


def _skew_symmetric(X: Tensor) -> Tensor:
    n, k = X.shape[-2:]
    X = X.tril()
    if n != k:
        X = torch.cat([X, X.new_zeros(n, n - k).expand(*X.shape[:-2], -1, -1)], dim=-1)
    return X - X.mH


def _multiply_reflections(A: Tensor) -> Tensor:
    # H_1 ... H_k = I - V R^-1 V^T, where R is upper triangular with |v_i|^2 / 2 on its diagonal
    n, k = A.shape[-2:]
    eye = torch.eye(n, k, dtype=A.dtype, device=A.device)
    V = A + eye
    products = V.mT @ V
    R = products.triu(1) + torch.diag_embed(products.diagonal(dim1=-2, dim2=-1) / 2)
    return eye - V @ torch.linalg.solve_triangular(R, V[..., :k, :].mT, upper=True)


def is_orthogonal(Q: Tensor) -> Tensor:
    """Whether the columns of square matrices are orthonormal, up to ten times the precision of the dtype per row."""
    eye = torch.eye(Q.size(-1), dtype=Q.dtype, device=Q.device)
    tolerance = 10.0 * Q.size(-2) * torch.finfo(Q.dtype).eps
    return ((Q.mH @ Q - eye).abs() <= tolerance + 1e-5 * eye.abs()).all()


def orthogonalise(A: Tensor) -> Tensor:
    """The matrix Q of the decomposition ``A = QR`` where R has a positive diagonal."""
    reflectors, tau = torch.geqrf(A)
    Q = torch.linalg.householder_product(reflectors, tau)
    return Q * reflectors.diagonal(dim1=-2, dim2=-1).sgn().unsqueeze(-2)


def householder_inverse(Q: Tensor) -> Tensor:
    """The matrix that :func:`householder` maps to Q, or to the orthonormalised Q."""
    A, tau = torch.geqrf(Q)
    signs = A.diagonal(dim1=-2, dim2=-1).sign()
    # LAPACK leaves out a reflection by setting tau to exactly 0.
    return torch.diagonal_scatter(A, torch.where(tau == 0.0, -signs, signs), 0, -2, -1)

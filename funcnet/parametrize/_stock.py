"""The parametrizations of torch.nn.utils.parametrizations, as nets: from original tensors to the tensor computed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet._context import beyond_backward, under_vmap
from funcnet._torch import OrthogonalMap, OrthogonalModule, SpectralNormModule, WeightNormModule, weight_norm
from funcnet.core import Buffer, View, draw_source
from funcnet.core.internals import StockNet, call_and_path
from funcnet.init import normal
from funcnet.parametrize._maps import MAPS, householder_inverse, is_orthogonal, made_orthogonal
from funcnet.random import normal as draw_normal

STOCK: dict[type[nn.Module], type[Stock]] = {}
"""torch's own parametrization modules -> their nets; filled as the classes below are defined."""


class Stock(StockNet):
    """A net with a twin among torch's own parametrization modules."""

    twin: ClassVar[type[nn.Module]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        STOCK[cls.twin] = cls

    @classmethod
    def from_module(cls, module: Any) -> Stock:
        """The record of a module's hyperparameters."""
        raise NotImplementedError


class WeightNorm(Stock):
    """Length times direction: ``g * v / |v|``, with one length for each slice along ``dim``, or one in all for -1."""

    dim: int
    twin = WeightNormModule

    @classmethod
    def from_module(cls, module: Any) -> WeightNorm:
        return cls(module.dim)

    def as_module(self) -> nn.Module:
        return self.twin(self.dim)

    @staticmethod
    def forward(p: View, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        if beyond_backward():  # the kernel has a formula for that only
            return weight_v * (weight_g / _length(weight_v, p.dim))
        return weight_norm(weight_v, weight_g, p.dim)

    @staticmethod
    def right_inverse(p: View, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _length(weight, p.dim), weight


def _length(v: Tensor, dim: int) -> Tensor:
    if not under_vmap():
        return torch.norm_except_dim(v, 2, dim)
    # the same in steps that have batching rules
    if dim == -1:
        return v.norm()
    if dim != 0:
        return _length(v.transpose(0, dim), 0).transpose(0, dim)
    return v.reshape(v.shape[0], -1).norm(2, 1).view(-1, *[1] * (v.dim() - 1))


class SpectralNorm(Stock, reads_trees=True):
    """The weight divided by its largest singular value, which each training call estimates a little better."""

    dim: int
    eps: float
    sizes: tuple[int, int] | None  # of the weight as a matrix with axis ``dim`` in front; None for a vector
    n_power_iterations: int = 1
    twin = SpectralNormModule

    @classmethod
    def of(cls, shape: tuple[int, ...], n_power_iterations: int, dim: int, eps: float) -> SpectralNorm:
        """The net for a weight of this shape; its twin refuses bad arguments."""
        with torch.device("meta"):
            return cls.from_module(SpectralNormModule(torch.empty(shape), n_power_iterations, dim, eps))

    @classmethod
    def from_module(cls, module: Any) -> SpectralNorm:
        if "_u" not in module._buffers:
            return cls(module.dim, module.eps, None)
        sizes = (module._u.shape[0], module._v.shape[0])
        return cls(module.dim, module.eps, sizes, module.n_power_iterations)

    def as_module(self) -> nn.Module:
        if self.sizes is None:
            return self.twin(torch.empty(1), 1, 0, self.eps)
        shape = [1] * max(2, self.dim + 1)
        shape[self.dim], shape[0 if self.dim else 1] = self.sizes
        return self.twin(torch.empty(shape), self.n_power_iterations, self.dim, self.eps)

    def parts(self) -> dict[str, Any]:
        if self.sizes is None:
            return {}
        rows, columns = self.sizes
        return {"_u": Buffer(rows, normal()), "_v": Buffer(columns, normal())}

    # It reads trees since a view has no names that start with an underscore.

    @staticmethod
    def fit(p: View, weight: Tensor) -> None:
        """Make the numbers drawn for u and v an estimate of the singular vectors of a first weight."""
        if p.sizes is not None:
            u, v = (F.normalize(p._buffers[name], dim=0, eps=p.eps) for name in ("_u", "_v"))
            _record(p, *_iterated(_matrix(weight, p.dim), u, v, 15, p.eps))

    @staticmethod
    def forward(p: View, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=p.eps)
        matrix = _matrix(weight, p.dim)
        u, v = p._buffers["_u"], p._buffers["_v"]
        if p.training:
            u, v = _iterated(matrix, u, v, p.n_power_iterations, p.eps)
            _record(p, u, v)
        return weight / torch.vdot(u, torch.mv(matrix, v))

    @staticmethod
    def right_inverse(_: View, value: Tensor) -> Tensor:
        return value


def _matrix(weight: Tensor, dim: int) -> Tensor:
    return (weight.movedim(dim, 0) if dim else weight).flatten(1)


def _iterated(matrix: Tensor, u: Tensor, v: Tensor, steps: int, eps: float) -> tuple[Tensor, Tensor]:
    # Detached, where the module has no_grad: that would let tangents of forward mode through.
    matrix, u, v = matrix.detach(), u.detach(), v.detach()
    for _ in range(steps):
        u = F.normalize(torch.mv(matrix, v), dim=0, eps=eps)
        v = F.normalize(torch.mv(matrix.H, u), dim=0, eps=eps)
    return u, v


def _record(p: View, u: Tensor, v: Tensor) -> None:
    if not call_and_path(p)[0].closed:
        p._buffers["_u"], p._buffers["_v"] = u, v


class Orthogonal(Stock):
    """A matrix with orthonormal columns, or rows where there are more of those, from one without constraints."""

    shape: tuple[int, ...]
    orthogonal_map: str
    use_trivialization: bool = True
    twin = OrthogonalModule

    def __post_init__(self) -> None:
        if self.orthogonal_map not in MAPS:
            names = ", ".join(map(repr, MAPS))
            raise ValueError(f"orthogonal_map is one of {names}, got {self.orthogonal_map!r}.")

    @classmethod
    def from_module(cls, module: Any) -> Orthogonal:
        return cls(tuple(module.shape), module.orthogonal_map.name, "base" in module._buffers)

    def as_module(self) -> nn.Module:
        chosen = getattr(OrthogonalMap, self.orthogonal_map)
        module = self.twin(torch.empty(self.shape), chosen, use_trivialization=self.use_trivialization)
        if self.use_trivialization:
            module.register_buffer("base", torch.empty(self._square()))
        return module

    def _square(self) -> tuple[int, ...]:
        size = max(self.shape[-2:])
        return (*self.shape[:-2], size, size)

    def parts(self) -> dict[str, Any]:
        return {"base": Buffer(self._square()) if self.use_trivialization else None}

    @staticmethod
    def fit(p: View, weight: Tensor) -> None:
        """Nothing to do with a first weight, though torch looks at it."""

    @staticmethod
    def forward(p: View, X: Tensor) -> Tensor:
        wide = X.size(-2) < X.size(-1)
        Q = MAPS[p.orthogonal_map](X.mT if wide else X)
        if p.base is not None:
            Q = p.base @ Q
        return Q.mT if wide else Q

    @staticmethod
    def right_inverse(p: View, Q: Tensor) -> Tensor:
        if tuple(Q.shape) != p.shape:
            raise ValueError(f"expected a matrix, or a batch of them, of shape {p.shape}, got {tuple(Q.shape)}.")
        if Q.is_meta:
            return torch.empty_like(Q)
        wide = Q.size(-2) < Q.size(-1)
        tall = Q.mT if wide else Q
        if p.base is None:
            if p.orthogonal_map != "householder":
                raise NotImplementedError(f"{p.orthogonal_map} has no inverse without use_trivialization.")
            A = householder_inverse(tall)
            return A.mT if wide else A
        p.base = _base(p, tall)
        # minus the identity, which every map takes to the identity
        minus_ones = Q.new_full((*Q.shape[:-2], min(Q.shape[-2:])), -1.0)
        return torch.diagonal_scatter(torch.zeros_like(Q), minus_ones, 0, -2, -1)


def _base(p: View, Q: Tensor) -> Tensor:
    """An orthogonal square matrix whose first columns are those of Q, made orthonormal if they are not."""
    n, k = Q.shape[-2:]
    if n != k:
        drawn = draw_normal(draw_source(p), (*Q.shape[:-2], n, n - k), dtype=Q.dtype, device=Q.device)
        return made_orthogonal(torch.cat([Q, drawn], dim=-1))
    if under_vmap():
        return torch.where(is_orthogonal(Q), Q, made_orthogonal(Q))
    return Q.clone() if is_orthogonal(Q) else made_orthogonal(Q)

"""The parametrizations of torch.nn.utils.parametrizations as nets, which compute a tensor from original tensors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet._context import under_vmap
from funcnet._torch import OrthogonalMap, OrthogonalModule, SpectralNormModule, WeightNormModule
from funcnet.core import Buffer, View, draw_source
from funcnet.core.internals import StockNet, call_and_path
from funcnet.init import normal
from funcnet.kernels import weight_norm
from funcnet.kernels.internals import slice_lengths
from funcnet.parametrize._orthogonal_maps import MAPS, householder_inverse, is_orthogonal, orthogonalise
from funcnet.random import normal as draw_normal

STOCK_PARAMETRIZATIONS: dict[type[nn.Module], type[StockParametrization]] = {}
"""The net of each of torch's parametrization modules; filled as the classes below are defined."""


class StockParametrization(StockNet):
    """A net with a twin among torch's own parametrization modules."""

    twin: ClassVar[type[nn.Module]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        STOCK_PARAMETRIZATIONS[cls.twin] = cls

    @classmethod
    def from_module(cls, module: Any) -> StockParametrization:
        """The record of a module's hyperparameters."""
        raise NotImplementedError


class WeightNorm(StockParametrization):
    """Length times direction: ``g * v / |v|``, with one length for each slice along ``dim``, or a single one for -1."""

    dim: int
    twin = WeightNormModule

    @classmethod
    def from_module(cls, module: Any) -> WeightNorm:
        return cls(module.dim)

    def as_module(self) -> nn.Module:
        return self.twin(self.dim)

    @staticmethod
    def forward(p: View, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_norm(weight_v, weight_g, p.dim)

    @staticmethod
    def right_inverse(p: View, weight: Tensor) -> tuple[Tensor, Tensor]:
        return slice_lengths(weight, p.dim), weight


class SpectralNorm(StockParametrization, reads_trees=True):
    """The weight divided by an estimate of its largest singular value. Each training call improves the estimate."""

    dim: int
    eps: float
    sizes: tuple[int, int] | None  # of the weight as a matrix whose rows are slices along ``dim``; None for a vector
    n_power_iterations: int = 1
    twin = SpectralNormModule

    @classmethod
    def for_shape(cls, shape: tuple[int, ...], n_power_iterations: int, dim: int, eps: float) -> SpectralNorm:
        """The net for a weight of this shape. Building its twin refuses bad arguments."""
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
    def fit_to_weight(p: View, weight: Tensor) -> None:
        """Turn the random first values of u and v into an estimate of the singular vectors of the first weight."""
        if p.sizes is not None:
            u, v = (F.normalize(p._buffers[name], dim=0, eps=p.eps) for name in ("_u", "_v"))
            _record_vectors(p, *_iterate_power(_as_matrix(weight, p.dim), u, v, 15, p.eps))

    @staticmethod
    def forward(p: View, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=p.eps)
        matrix = _as_matrix(weight, p.dim)
        u, v = p._buffers["_u"], p._buffers["_v"]
        if p.training:
            u, v = _iterate_power(matrix, u, v, p.n_power_iterations, p.eps)
            _record_vectors(p, u, v)
        return weight / torch.vdot(u, torch.mv(matrix, v))

    @staticmethod
    def right_inverse(_: View, value: Tensor) -> Tensor:
        return value


def _as_matrix(weight: Tensor, dim: int) -> Tensor:
    return (weight.movedim(dim, 0) if dim else weight).flatten(1)


def _iterate_power(matrix: Tensor, u: Tensor, v: Tensor, steps: int, eps: float) -> tuple[Tensor, Tensor]:
    # The module uses no_grad here. A net detaches, as no_grad would let the tangents of forward mode pass.
    matrix, u, v = matrix.detach(), u.detach(), v.detach()
    for _ in range(steps):
        u = F.normalize(torch.mv(matrix, v), dim=0, eps=eps)
        v = F.normalize(torch.mv(matrix.H, u), dim=0, eps=eps)
    return u, v


def _record_vectors(p: View, u: Tensor, v: Tensor) -> None:
    if not call_and_path(p)[0].closed:
        p._buffers["_u"], p._buffers["_v"] = u, v


class Orthogonal(StockParametrization):
    """A matrix with orthonormal columns, or rows if it is wide, computed from a matrix without constraints."""

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
        torch_map = getattr(OrthogonalMap, self.orthogonal_map)
        module = self.twin(torch.empty(self.shape), torch_map, use_trivialization=self.use_trivialization)
        if self.use_trivialization:
            module.register_buffer("base", torch.empty(self._base_shape()))
        return module

    def _base_shape(self) -> tuple[int, ...]:
        size = max(self.shape[-2:])
        return (*self.shape[:-2], size, size)

    def parts(self) -> dict[str, Any]:
        return {"base": Buffer(self._base_shape()) if self.use_trivialization else None}

    @staticmethod
    def fit_to_weight(p: View, weight: Tensor) -> None:
        """Nothing to fit. The method is there because torch reads the first weight here, which can change buffers."""

    @staticmethod
    def forward(p: View, X: Tensor) -> Tensor:
        is_wide = X.size(-2) < X.size(-1)
        Q = MAPS[p.orthogonal_map](X.mT if is_wide else X)
        if p.base is not None:
            Q = p.base @ Q
        return Q.mT if is_wide else Q

    @staticmethod
    def right_inverse(p: View, Q: Tensor) -> Tensor:
        if tuple(Q.shape) != p.shape:
            raise ValueError(f"expected a matrix, or a batch of them, of shape {p.shape}, got {tuple(Q.shape)}.")
        if Q.is_meta:
            return torch.empty_like(Q)
        is_wide = Q.size(-2) < Q.size(-1)
        tall = Q.mT if is_wide else Q
        if p.base is None:
            if p.orthogonal_map != "householder":
                raise NotImplementedError(f"{p.orthogonal_map} has no inverse without use_trivialization.")
            A = householder_inverse(tall)
            return A.mT if is_wide else A
        p.base = _complete_basis(p, tall)
        # Every map turns minus the identity into the identity.
        minus_ones = Q.new_full((*Q.shape[:-2], min(Q.shape[-2:])), -1.0)
        return torch.diagonal_scatter(torch.zeros_like(Q), minus_ones, 0, -2, -1)


def _complete_basis(p: View, Q: Tensor) -> Tensor:
    """An orthogonal square matrix whose first columns are those of Q, orthonormalised if needed."""
    n, k = Q.shape[-2:]
    if n != k:
        random_columns = draw_normal(draw_source(p), (*Q.shape[:-2], n, n - k), dtype=Q.dtype, device=Q.device)
        return orthogonalise(torch.cat([Q, random_columns], dim=-1))
    if under_vmap():
        return torch.where(is_orthogonal(Q), Q, orthogonalise(Q))
    return Q.clone() if is_orthogonal(Q) else orthogonalise(Q)

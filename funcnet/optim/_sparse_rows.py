"""The rows of a dense tensor that a sparse gradient has values for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from funcnet.optim._scalars import TENSORS, Scalar
from funcnet.optim._update_operations import Memory, add


@dataclass(frozen=True)
class Rows:
    """Positions in a dense tensor, and the values of a sparse one at them.

    Args:
        indices: one tensor (N,) for each leading axis.
        values: (N, *), where * are the other axes.
    """

    indices: tuple[Tensor, ...]
    values: Tensor

    def take_from(self, dense: Tensor) -> Tensor:
        """The values of a dense tensor at these rows."""
        return dense[self.indices]

    def add_to(self, dense: Tensor, values: Tensor, alpha: Scalar = 1, over: bool = False) -> Tensor:
        """A dense tensor plus ``alpha * values`` at these rows; written over the tensor if ``over`` is true."""
        if isinstance(alpha, TENSORS):
            return dense.index_put(self.indices, Memory().mul(values, alpha), accumulate=True)
        indices = torch.stack(self.indices)
        addend = torch.sparse_coo_tensor(indices, values, dense.shape, is_coalesced=True, check_invariants=False)
        return add(dense, addend, alpha, over)


def rows_of(sparse: Tensor) -> Rows:
    """The rows of a sparse COO tensor; those that it names several times are added up."""
    sparse = sparse.coalesce()
    return Rows(tuple(sparse.indices().unbind(0)), sparse.values())

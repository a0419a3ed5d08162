"""The rows of a dense tensor that a sparse gradient has values for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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

    def add_to(self, dense: Tensor, values: Tensor, in_place: bool) -> Tensor:
        """A dense tensor with values added at these rows."""
        if in_place:
            return dense.index_put_(self.indices, values, accumulate=True)
        return dense.index_put(self.indices, values, accumulate=True)


def rows_of(sparse: Tensor) -> Rows:
    """The rows of a sparse COO tensor; those that it names several times are added up."""
    sparse = sparse.coalesce()
    return Rows(tuple(sparse.indices().unbind(0)), sparse.values())

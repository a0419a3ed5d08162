"""What one use of a weight adds to the gradient of each example, in the form that holds the fewest numbers.

Axes: B examples, G groups, T positions within an example, L rows and R columns of a group's matrix, V rows of a table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from funcnet._typing import Shape

_HALF = (torch.float16, torch.bfloat16)


class Contribution(ABC):
    """The gradients by one weight, one for each example, in whatever form a rule has them.

    Attributes:
        shape: of the weight.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = tuple(shape)

    @abstractmethod
    def stack(self) -> Tensor:
        """The gradients themselves, (B, *shape)."""

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """The squared norm of each gradient, (B,)."""

    @abstractmethod
    def sum_weighted(self, weights: Tensor) -> Tensor:
        """The sum of the gradients, each times its weight; ``weights`` is (B,), the result has ``shape``."""

    @abstractmethod
    def dots(self, direction: Tensor) -> Tensor:
        """The inner product of each gradient with a tensor of ``shape``, (B,)."""

    def transposed(self) -> Contribution:
        """The same gradients by the transpose of a weight with two axes."""
        return StackedGrads(self.stack().transpose(1, 2))


class StackedGrads(Contribution):
    """The gradients themselves.

    Args:
        grads: (B, *shape).
    """

    def __init__(self, grads: Tensor) -> None:
        super().__init__(grads.shape[1:])
        self.grads = grads

    def stack(self) -> Tensor:
        return self.grads

    def squared_norms(self) -> Tensor:
        return squared_lengths(self.grads.flatten(1) if self.shape else self.grads[:, None])

    def sum_weighted(self, weights: Tensor) -> Tensor:
        rows = self.grads.reshape(len(self.grads), -1)
        return (weights.to(rows.dtype) @ rows).view(self.shape)

    def dots(self, direction: Tensor) -> Tensor:
        return self.grads.reshape(len(self.grads), -1) @ direction.reshape(-1).to(self.grads.dtype)


class OuterProducts(Contribution):
    """Sums of outer products, as a linear map has them: its output's gradient times its input, at each position.

    Args:
        left: (B, G, T, L), the factor whose axis counts rows of the weight.
        right: (B, G, T, R).
        shape: of the weight, with G * L * R elements.
    """

    def __init__(self, left: Tensor, right: Tensor, shape: Shape) -> None:
        super().__init__(shape)
        if left.dtype != right.dtype:  # autocast computes one of them in half precision
            dtype = torch.promote_types(left.dtype, right.dtype)
            left, right = left.to(dtype), right.to(dtype)
        self.left, self.right = left, right
        self._stacked: Tensor | None = None

    @property
    def is_smaller_factored(self) -> bool:
        """Whether the factors hold fewer numbers than the gradients; then inner products of factors are cheaper too."""
        return is_smaller_factored(self.left.shape[2], self.left.shape[3], self.right.shape[3])

    def stack(self) -> Tensor:
        if self._stacked is None:
            left = self.left.transpose(-1, -2)
            products = left * self.right if left.shape[-1] == 1 else left @ self.right
            self._stacked = products.reshape(len(left), *self.shape)
        return self._stacked

    def squared_norms(self) -> Tensor:
        if self.left.shape[2] == 1:
            return (squared_lengths(self.left) * squared_lengths(self.right)).sum((1, 2))
        if self.is_smaller_factored:
            return self.inner_products(self)
        return StackedGrads(self.stack()).squared_norms()

    def inner_products(self, other: OuterProducts) -> Tensor:
        """The inner product of each gradient with that of another use of the weight, (B,)."""
        lefts = _at_least_single(self.left) @ _at_least_single(other.left).transpose(-1, -2)
        rights = _at_least_single(self.right) @ _at_least_single(other.right).transpose(-1, -2)
        return torch.linalg.vecdot(lefts.flatten(1), rights.flatten(1))

    def sum_weighted(self, weights: Tensor) -> Tensor:
        if self._stacked is not None:
            return StackedGrads(self._stacked).sum_weighted(weights)
        left, right = self.left, self.right
        factors = weights.to(left.dtype).view(-1, 1, 1, 1)
        if left.numel() < right.numel():
            left = left * factors
        else:
            right = right * factors
        left, right = (x.transpose(0, 1).reshape(x.shape[1], -1, x.shape[3]) for x in (left, right))
        if len(left) == 1:
            return (left[0].t() @ right[0]).view(self.shape)
        return (left.transpose(1, 2) @ right).view(self.shape)

    def dots(self, direction: Tensor) -> Tensor:
        matrices = direction.reshape(self.left.shape[1], self.left.shape[3], self.right.shape[3]).to(self.left.dtype)
        if self._stacked is not None:
            return StackedGrads(self._stacked).dots(direction)
        images = self.right @ matrices.transpose(1, 2)
        return torch.linalg.vecdot(images.flatten(1), self.left.flatten(1))

    def transposed(self) -> Contribution:
        if self.left.shape[1] > 1:
            return super().transposed()
        return OuterProducts(self.right, self.left, self.shape[::-1])


class SelectedRows(Contribution):
    """Gradients that are zero but for a few rows: those of a table that rows were read from.

    Args:
        rows: (B, T), the number of the row at each position.
        values: (B, T, R), what is added to these rows.
        count: how many rows V the table has.
    """

    def __init__(self, rows: Tensor, values: Tensor, count: int) -> None:
        super().__init__((count, values.shape[-1]))
        self.rows, self.values = rows, values

    def stack(self) -> Tensor:
        batch, (count, width) = len(self.rows), self.shape
        stacked = self.values.new_zeros(batch * count, width)
        stacked.index_add_(0, self._rows_of_all_tables(), self.values.reshape(-1, width))
        return stacked.view(batch, count, width)

    def squared_norms(self) -> Tensor:
        rows, places = self._rows_of_all_tables().unique(return_inverse=True)
        values = _at_least_single(self.values).reshape(-1, self.shape[1])
        sums = values.new_zeros(len(rows), self.shape[1]).index_add_(0, places, values)
        lengths = squared_lengths(sums)
        return lengths.new_zeros(len(self.rows)).index_add_(0, rows // self.shape[0], lengths)

    def inner_products(self, other: OuterProducts) -> Tensor:
        """The inner product of each gradient with that of a use as a matrix, (B,)."""
        picked = other.left[:, 0].gather(2, self.rows[:, None, :].expand(-1, other.left.shape[2], -1))
        picked = _at_least_single(picked)
        rights = _at_least_single(other.right[:, 0]) @ _at_least_single(self.values).transpose(1, 2)
        return torch.linalg.vecdot(picked.flatten(1), rights.flatten(1))

    def sum_weighted(self, weights: Tensor) -> Tensor:
        values = self.values * weights.to(self.values.dtype).view(-1, 1, 1)
        return torch.ops.aten.embedding_dense_backward(values, self.rows, self.shape[0], -1, False)

    def dots(self, direction: Tensor) -> Tensor:
        rows = direction.to(self.values.dtype)[self.rows]
        return torch.linalg.vecdot(rows.flatten(1), self.values.flatten(1))

    def _rows_of_all_tables(self) -> Tensor:
        """The numbers of rows if each example had a table of its own, one behind the other, (B * T,)."""
        starts = torch.arange(len(self.rows), device=self.rows.device) * self.shape[0]
        return (self.rows + starts[:, None]).reshape(-1)


def is_smaller_factored(positions: int, rows: int, columns: int) -> bool:
    """Whether two factors of a matrix hold fewer numbers than the matrix.

    >>> is_smaller_factored(1, 10, 10), is_smaller_factored(9, 10, 10)
    (True, False)
    """
    return positions * (rows + columns) < rows * columns


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def squared_lengths(rows: Tensor) -> Tensor:
    """The sum of the squares along the last axis, in single precision at least."""
    dtype = torch.float32 if rows.dtype in _HALF else None
    return torch.linalg.vector_norm(rows, dim=-1, dtype=dtype).square()


def merge_uses(contributions: list[Contribution]) -> list[Contribution]:
    """The same sum with fewer summands: uses of one kind are further positions of a single use."""
    products: dict[tuple[int, ...], list[OuterProducts]] = {}
    rows: list[SelectedRows] = []
    stacks: list[Tensor] = []
    for use in contributions:
        if type(use) is OuterProducts:
            products.setdefault((use.left.shape[1], use.left.shape[3], use.right.shape[3]), []).append(use)
        elif type(use) is SelectedRows:
            rows.append(use)
        else:
            stacks.append(use.stack())
    merged: list[Contribution] = [uses[0] if len(uses) == 1 else _join_positions(uses) for uses in products.values()]
    if rows:
        all_rows, values = torch.cat([use.rows for use in rows], 1), torch.cat([use.values for use in rows], 1)
        merged.append(SelectedRows(all_rows, values, rows[0].shape[0]))
    if stacks:
        merged.append(StackedGrads(sum(stacks[1:], stacks[0])))
    return merged


def _join_positions(uses: list[OuterProducts]) -> OuterProducts:
    left, right = torch.cat([use.left for use in uses], 2), torch.cat([use.right for use in uses], 2)
    return OuterProducts(left, right, uses[0].shape)


def stack_sum(contributions: list[Contribution]) -> Tensor:
    """The sum of the gradients of several uses of one weight, (B, *shape)."""
    first, *others = (use.stack() for use in merge_uses(contributions))
    for stacked in others:
        first = first + stacked.view(first.shape)
    return first

"""The gradients of all examples by all params, held as what the uses of the params add to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from funcnet.transforms._per_sample._contributions import (
    Contribution,
    OuterProducts,
    SelectedRows,
    StackedGrads,
    merge_uses,
    stack_sum,
)


class Segment:
    """Gradients by a run of a param's elements, in the order in which a contiguous param has them.

    Args:
        start: index of the first element.
        size: how many there are.
        uses: what the uses of these elements add; all have one shape.
    """

    def __init__(self, start: int, size: int, uses: Sequence[Contribution]) -> None:
        self.start, self.size, self.uses = start, size, list(uses)

    @property
    def end(self) -> int:
        return self.start + self.size

    def squared_norms(self) -> Tensor:
        """The squared norm of the sum over uses, which is summed before it is squared, (B,)."""
        match self.uses:
            case [OuterProducts() as products, SelectedRows() as rows] if products.is_smaller_factored:
                return products.squared_norms() + rows.squared_norms() + 2 * rows.inner_products(products)
            case [_, _, *_]:
                self.uses = [StackedGrads(stack_sum(self.uses))]
        return self.uses[0].squared_norms()


class ParamGrads:
    """The gradients of all examples by one param.

    Args:
        param: the param.
        batch_size: number of examples B.
        segments: runs of its elements; the gradient by all others is zero.
    """

    def __init__(self, param: Tensor, batch_size: int, segments: Sequence[Segment]) -> None:
        self.param, self.batch_size = param, batch_size
        self.segments = _join_overlapping(segments)

    @property
    def _is_whole(self) -> bool:
        return len(self.segments) == 1 and self.segments[0].size == self.param.numel()

    def squared_norms(self) -> Tensor | None:
        """(B,), or None for zeros."""
        return _sum(segment.squared_norms() for segment in self.segments)

    def dots(self, direction: Tensor) -> Tensor | None:
        """The inner products with a tensor of the param's shape, (B,), or None for zeros."""
        flat = direction.reshape(-1)
        return _sum(
            use.dots(flat[segment.start : segment.end].view(use.shape))
            for segment in self.segments
            for use in segment.uses
        )

    def sum_weighted(self, weights: Tensor) -> Tensor:
        """The weighted sum of the gradients, of the param's shape and dtype."""
        sums = [_sum(use.sum_weighted(weights) for use in segment.uses) for segment in self.segments]
        if self._is_whole and sums[0] is not None:
            return sums[0].reshape(self.param.shape).to(self.param.dtype)
        total = torch.zeros(self.param.shape, dtype=self.param.dtype, device=self.param.device)
        for segment, grad in zip(self.segments, sums, strict=True):
            if grad is not None:
                total.view(-1)[segment.start : segment.end] = grad.reshape(-1).to(total.dtype)
        return total

    def stack(self) -> Tensor:
        """The gradients themselves, (B, *shape)."""
        stacks = [stack_sum(segment.uses) for segment in self.segments]
        shape = (self.batch_size, *self.param.shape)
        if self._is_whole:
            return stacks[0].reshape(shape).to(self.param.dtype)
        total = torch.zeros(shape, dtype=self.param.dtype, device=self.param.device)
        for segment, grads in zip(self.segments, stacks, strict=True):
            total.view(self.batch_size, -1)[:, segment.start : segment.end] = grads.flatten(1).to(total.dtype)
        return total


def _sum(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of those that are not None; None if all are."""
    total: Tensor | None = None
    for tensor in tensors:
        total = tensor if total is None else total if tensor is None else total + tensor
    return total


def _join_overlapping(segments: Sequence[Segment]) -> list[Segment]:
    """Segments that share no elements: equal ones as one, and overlapping ones as one of stacked gradients."""
    joined: list[Segment] = []
    for segment in sorted(segments, key=lambda segment: (segment.start, -segment.size)):
        last = joined[-1] if joined else None
        if last is None or segment.start >= last.end:
            joined.append(Segment(segment.start, segment.size, segment.uses))
        elif (segment.start, segment.size) == (last.start, last.size) and segment.uses[0].shape == last.uses[0].shape:
            last.uses += segment.uses
        else:
            joined[-1] = _stack_overlapping(last, segment)
    for segment in joined:
        segment.uses = merge_uses(segment.uses)
    return joined


def _stack_overlapping(first: Segment, second: Segment) -> Segment:
    size = max(first.end, second.end) - first.start
    total: Tensor | None = None
    for segment in (first, second):
        grads = stack_sum(segment.uses).flatten(1)
        start = segment.start - first.start
        padded = torch.nn.functional.pad(grads, (start, size - start - segment.size))
        total = padded if total is None else total + padded
    assert total is not None
    return Segment(first.start, size, [StackedGrads(total)])


class SampleGradients:
    """The gradients of all examples by all params.

    Args:
        by_param: those by each param.
        batch_size: number of examples B.
    """

    def __init__(self, by_param: Sequence[ParamGrads], batch_size: int) -> None:
        self.by_param, self.batch_size = list(by_param), batch_size

    def norms(self) -> Tensor:
        """The norm of each example's gradient, all params together, (B,); half precision is summed in single."""
        total = self._total(grads.squared_norms() for grads in self.by_param).clamp(min=0)
        is_zero = total == 0  # the root has no derivative there
        return torch.where(is_zero, 0, torch.where(is_zero, 1, total).sqrt())

    def dots(self, directions: Sequence[Tensor]) -> Tensor:
        """The inner product of each example's gradient with a tensor for each param, (B,)."""
        return self._total(grads.dots(direction) for grads, direction in zip(self.by_param, directions, strict=True))

    def sum_weighted(self, weights: Tensor) -> list[Tensor]:
        """The weighted sum of the gradients by each param."""
        return [grads.sum_weighted(weights) for grads in self.by_param]

    def stack(self) -> list[Tensor]:
        """The gradients by each param, (B, *shape)."""
        return [grads.stack() for grads in self.by_param]

    def _total(self, parts: Iterable[Tensor | None]) -> Tensor:
        total = _sum(parts)
        return torch.zeros(self.batch_size) if total is None else total

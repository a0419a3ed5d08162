"""Sums, means and maxima of rows of a table. Axes: V entries, E embedding, B bags, L entries of a bag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet._context import beyond_one_gradient, under_forward_mode
from funcnet._torch_versions import BAG_TAKES_WRONG_COUNTS
from funcnet.core import Param, View
from funcnet.layers._embedding import NO_WEIGHT, limit_row_norms, normal_except_row, refuse_tensor_arguments
from funcnet.layers._layer import Layer

MODES = ("sum", "mean", "max")


class EmbeddingBag(Layer):
    """Rows of a table, reduced bag by bag, without building a tensor of the rows.

    Args:
        num_embeddings: number of rows V.
        embedding_dim: size E of a row.
        max_norm, norm_type: as for :class:`Embedding`; ``params`` stay as they are.
        scale_grad_by_freq: divide gradients by how often an index occurs in ``input``; not with mode "max".
        mode: "sum", "mean" or "max".
        sparse: make the gradient of the weight a sparse tensor; not with mode "max".
        include_last_offset: ``offsets`` has one more entry, the size of ``input``.
        padding_idx: a row that starts at zero, gets no gradient and is left out of every bag.
        device, dtype: the defaults of :meth:`init`.

    Params: weight (V, E).  Buffers: none.  Draws: none at apply.
    Shape:  input (B, L) of ints in [0, V), or input (*,) with offsets (B,), where each bag begins -> y (B, E). With
        mode "sum" the rows are multiplied by per_sample_weights, which have the shape of ``input``.
    Raises: ValueError for an unknown mode or flags that the mode does not support; ShapeError for other shapes.
    Source: torch.nn.functional.embedding_bag.

    >>> bags = EmbeddingBag(10, 4, mode="sum")
    >>> params, _ = bags.init(0)
    >>> bags(params, torch.tensor([1, 2, 3, 4]), torch.tensor([0, 3])).shape
    torch.Size([2, 4])
    """

    num_embeddings: int
    embedding_dim: int
    max_norm: float | None = None
    norm_type: float = 2.0
    scale_grad_by_freq: bool = False
    mode: str = "mean"
    sparse: bool = False
    _weight: None = None
    include_last_offset: bool = False
    padding_idx: int | None = None
    device: Device = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        refuse_tensor_arguments(self, self._weight)
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(f"EmbeddingBag: mode is one of {MODES}, got {self.mode!r}.")
        for flag in ("scale_grad_by_freq", "sparse"):
            if self.mode == "max" and getattr(self, flag):
                raise ValueError(f"EmbeddingBag: {flag} does not go with mode 'max'.")

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Not supported, as a net holds no tensor: raises a TypeError that shows the two lines to write instead."""
        raise TypeError(NO_WEIGHT.format(name=cls.__name__))

    if TYPE_CHECKING:

        @property
        def weight(self) -> Param: ...

    def parts(self) -> dict[str, Any]:
        return {"weight": Param((self.num_embeddings, self.embedding_dim), normal_except_row(self.padding_idx))}

    def expects(self) -> str:
        return (
            f"input (B, L) of ints in [0, {self.num_embeddings}), or input (*,) of them and offsets (B,)"
            f"{'; per_sample_weights of the shape of input' if self.mode == 'sum' else ''}"
        )

    @staticmethod
    def forward(
        p: View, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        if per_sample_weights is not None and p.mode != "sum":
            raise ValueError(f"per_sample_weights go with mode 'sum', and this is {p.mode!r}")
        if offsets is not None and offsets.shape[:1] == (0,) and input.shape[:1] != (0,):
            raise ValueError("offsets say where bags begin, and are empty")  # torch's kernel reads past their end
        weight = p.weight
        if p.max_norm is not None:
            weight = limit_row_norms(p, weight, input)
        if under_forward_mode() or beyond_one_gradient():  # the kernel has no rules for these
            return _reduce_bags_composed(p, weight, input, offsets, per_sample_weights)
        return F.embedding_bag(
            input,
            weight,
            offsets,
            None,
            p.norm_type,
            p.scale_grad_by_freq,
            p.mode,
            p.sparse,
            per_sample_weights,
            p.include_last_offset,
            p.padding_idx,
        )


def _reduce_bags_composed(
    p: View, weight: Tensor, input: Tensor, offsets: Tensor | None, factors: Tensor | None
) -> Tensor:
    """The result of F.embedding_bag, computed by looking up every row and adding it to its bag."""
    if factors is not None and factors.shape != input.shape:
        raise ValueError(f"expected per_sample_weights {tuple(input.shape)}, got {tuple(factors.shape)}")
    if input.dim() == 2 and offsets is None:
        count = input.shape[0]
        bag = torch.arange(count, device=input.device).repeat_interleave(input.shape[1])
    elif input.dim() == 1 and offsets is not None and offsets.dim() == 1:
        starts = offsets[:-1] if p.include_last_offset else offsets
        count = starts.shape[0]
        position = torch.arange(input.shape[0], device=input.device)
        bag = (position[:, None] >= starts).sum(-1) - 1
    else:
        raise ValueError("expected a 2D input and no offsets, or a 1D input and 1D offsets")
    flat = input.reshape(-1)
    rows = F.embedding(flat, _scale_gradient_by_frequency(weight, flat) if p.scale_grad_by_freq else weight)
    if offsets is not None:
        # A transform cannot branch on the values of offsets: for offsets that the kernel refuses, the result is NaN.
        is_valid = (offsets[:1] == 0).all() & ((offsets >= 0) & (offsets <= flat.shape[0])).all()
        rows = torch.where(is_valid, rows, rows.new_full((), torch.nan))
    if factors is not None:
        rows = rows * factors.reshape(-1, 1)
    counts_in_bag = torch.ones_like(flat, dtype=torch.bool) if p.padding_idx is None else flat != p.padding_idx
    if p.mode == "max":
        return _max_per_bag(rows, bag, counts_in_bag, count)
    rows = torch.where(counts_in_bag[:, None], rows, rows.new_zeros(()))
    total = rows.new_zeros((count, rows.shape[1])).index_add(0, bag, rows)
    if p.mode == "sum":
        return total
    entries = rows.new_zeros(count).index_add(0, bag, counts_in_bag.to(rows.dtype))
    return total / entries.clamp(min=1)[:, None]


def _scale_gradient_by_frequency(weight: Tensor, flat: Tensor) -> Tensor:
    """The weight, with gradients divided by how often each row is looked up."""
    if flat.shape[0] == 0:
        return weight
    counts = flat.new_zeros(weight.shape[0]).index_add(0, flat, torch.ones_like(flat))
    if BAG_TAKES_WRONG_COUNTS and weight.device.type == "cpu":
        # torch's kernel on the CPU divides by the wrong count: it sorts the indices, and for the n-th distinct index
        # takes the count of the n-th index of all. A net has the module's gradients, so this does the same.
        nth = ((counts > 0).cumsum(0) - 1).clamp(min=0)
        counts = counts.index_select(0, flat.sort().values.index_select(0, nth))
    detached = weight.detach()
    return detached + (weight - detached) / counts.clamp(min=1)[:, None]


def _max_per_bag(rows: Tensor, bag: Tensor, counts_in_bag: Tensor, count: int) -> Tensor:
    """The largest value of each column in each bag, (B, E); zeros for an empty bag."""
    is_member = (bag == torch.arange(count, device=bag.device)[:, None]) & counts_in_bag  # (B, entries)
    if rows.shape[0] == 0:
        return rows.new_zeros((count, rows.shape[1]))
    largest = torch.where(is_member[:, :, None], rows, float("-inf")).max(1).values
    return torch.where(is_member.any(1)[:, None], largest, 0.0)

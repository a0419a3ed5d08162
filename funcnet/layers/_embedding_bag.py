"""Sums, means and maxima of rows of a table. Axes: V entries, E embedding, B bags, L entries of a bag."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import beyond_one_gradient, forward_mode
from funcnet.core import Param, View
from funcnet.layers._embedding import NO_WEIGHT, limit_row_norms, normal_except_row, refuse_weight
from funcnet.layers._layer import Layer

MODES = ("sum", "mean", "max")


class EmbeddingBag(Layer):
    """Rows of a table, put together bag by bag, without the rows themselves being made.

    Args:
        num_embeddings: number of rows V.
        embedding_dim: size E of a row.
        max_norm, norm_type: as for :class:`Embedding`; ``params`` stay as they are.
        scale_grad_by_freq: divide gradients by how often an index occurs in ``input``; not with mode "max".
        mode: "sum", "mean" or "max".
        sparse: make the gradient of the weight a sparse tensor; not with mode "max".
        include_last_offset: ``offsets`` has one more entry, the size of ``input``.
        padding_idx: a row that starts at zero, gets no gradient and is left out of every bag.
        device, dtype: what :meth:`init` uses unless told otherwise.

    Params: weight (V, E).  Buffers: none.  Draws: none at apply.
    Shape:  input (B, L) of ints in [0, V), or input (*,) with offsets (B,), where each bag begins -> y (B, E). With
        mode "sum" per_sample_weights, of the shape of ``input``, are factors for the rows.
    Raises: ValueError for another mode, or one that does not go with the flags; ShapeError for other shapes.
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
    device: Any = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        refuse_weight(self)
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(f"EmbeddingBag: mode is one of {MODES}, got {self.mode!r}.")
        for flag in ("scale_grad_by_freq", "sparse"):
            if self.mode == "max" and getattr(self, flag):
                raise ValueError(f"EmbeddingBag: {flag} does not go with mode 'max'.")

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, *args: Any, **kwargs: Any) -> Any:
        """There is none: a net holds no tensor. Raises TypeError with the two lines to write."""
        raise TypeError(NO_WEIGHT.format(name=cls.__name__))

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
        if forward_mode() or beyond_one_gradient():  # the kernel has no rules for vmap, tangents or a second derivative
            return _composed(p, weight, input, offsets, per_sample_weights)
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


def _composed(p: View, weight: Tensor, input: Tensor, offsets: Tensor | None, factors: Tensor | None) -> Tensor:
    """The same, by looking every row up and adding it to its bag."""
    if factors is not None and factors.shape != input.shape:
        raise ValueError(f"expected per_sample_weights {tuple(input.shape)}, got {tuple(factors.shape)}")
    if input.dim() == 2 and offsets is None:
        count = input.shape[0]
        bag = torch.arange(count, device=input.device).repeat_interleave(input.shape[1])
    elif input.dim() == 1 and offsets is not None and offsets.dim() == 1:
        starts = offsets[:-1] if p.include_last_offset else offsets
        count = starts.shape[0]
        place = torch.arange(input.shape[0], device=input.device)
        bag = (place[:, None] >= starts).sum(-1) - 1
    else:
        raise ValueError("expected a 2D input and no offsets, or a 1D input and 1D offsets")
    flat = input.reshape(-1)
    rows = F.embedding(flat, _by_frequency(weight, flat) if p.scale_grad_by_freq else weight)
    if offsets is not None:  # values that a transform cannot look at: what the kernel refuses is not a number here
        fits = (offsets[:1] == 0).all() & ((offsets >= 0) & (offsets <= flat.shape[0])).all()
        rows = torch.where(fits, rows, rows.new_full((), torch.nan))
    if factors is not None:
        rows = rows * factors.reshape(-1, 1)
    kept = torch.ones_like(flat, dtype=torch.bool) if p.padding_idx is None else flat != p.padding_idx
    if p.mode == "max":
        return _largest(rows, bag, kept, count)
    rows = torch.where(kept[:, None], rows, rows.new_zeros(()))
    total = rows.new_zeros((count, rows.shape[1])).index_add(0, bag, rows)
    if p.mode == "sum":
        return total
    entries = rows.new_zeros(count).index_add(0, bag, kept.to(rows.dtype))
    return total / entries.clamp(min=1)[:, None]


def _by_frequency(weight: Tensor, flat: Tensor) -> Tensor:
    """The weight, with gradients divided by how often each row is looked up."""
    if flat.shape[0] == 0:
        return weight
    counts = flat.new_zeros(weight.shape[0]).index_add(0, flat, torch.ones_like(flat))
    if weight.device.type == "cpu":
        # torch's kernel on the CPU divides the n-th distinct index by the count of the n-th of all, once sorted
        nth = ((counts > 0).cumsum(0) - 1).clamp(min=0)
        counts = counts.index_select(0, flat.sort().values.index_select(0, nth))
    held = weight.detach()
    return held + (weight - held) / counts.clamp(min=1)[:, None]


def _largest(rows: Tensor, bag: Tensor, kept: Tensor, count: int) -> Tensor:
    within = (bag == torch.arange(count, device=bag.device)[:, None]) & kept  # (B, entries)
    if rows.shape[0] == 0:
        return rows.new_zeros((count, rows.shape[1]))
    best = torch.where(within[:, :, None], rows, float("-inf")).max(1).values
    return torch.where(within.any(1)[:, None], best, 0.0)

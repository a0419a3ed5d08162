"""Sums, means and maxima of rows of a table. Axes: V entries, E embedding, B bags, L entries of a bag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.types import Device

from funcnet.core import Param, View
from funcnet.kernels import embedding_bag
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
        return embedding_bag(
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

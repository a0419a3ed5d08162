"""Look-up tables, the counterpart of torch/nn/modules/sparse.py. Axes: V entries, E embedding, * any."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet import init
from funcnet._context import under_vmap
from funcnet.core import Param, View
from funcnet.init import Draw
from funcnet.layers._layer import Layer


class Embedding(Layer):
    """Rows of a table, by index.

    Args:
        num_embeddings: number of rows V.
        embedding_dim: size E of a row.
        padding_idx: a row that starts at zero and gets no gradient.
        max_norm: rows that are looked up and longer than this are shortened to it. The module writes the shortened rows
            to its weight; here the result and the gradient are the same and ``params`` stay as they are.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide gradients by how often an index occurs in ``input``.
        sparse: make the gradient of the weight a sparse tensor; under vmap it is dense.
        device, dtype: what :meth:`init` uses unless told otherwise.

    Params: weight (V, E).  Buffers: none.  Draws: none at apply.
    Shape:  input (*) of ints in [0, V) -> y (*, E).
    Raises: ShapeError for an index out of range.
    Source: torch.nn.functional.embedding.

    >>> table = Embedding(10, 4)
    >>> table(table.init(0)[0], torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 4])
    """

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None = None
    max_norm: float | None = None
    norm_type: float = 2.0
    scale_grad_by_freq: bool = False
    sparse: bool = False
    _weight: None = None
    _freeze: bool = False
    device: Any = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        refuse_weight(self)
        super().__post_init__()

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, *args: Any, **kwargs: Any) -> Any:
        """There is none: a net holds no tensor. Raises TypeError with the two lines to write."""
        raise TypeError(NO_WEIGHT.format(name=cls.__name__))

    def parts(self) -> dict[str, Any]:
        return {"weight": Param((self.num_embeddings, self.embedding_dim), normal_except_row(self.padding_idx))}

    def expects(self) -> str:
        return f"input of ints in [0, {self.num_embeddings})"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        weight = p.weight
        if p.max_norm is not None:
            weight = limit_row_norms(p, weight, input)
        sparse = p.sparse and not under_vmap()  # which has no rule for making sparse tensors
        return F.embedding(input, weight, p.padding_idx, None, p.norm_type, p.scale_grad_by_freq, sparse)


NO_WEIGHT = (
    "{name} holds no tensor, so it takes none: net = funcnet.{name}(*weight.shape) and params = {{'weight': weight}}. "
    "To train all else, keep it out by funcnet.tree.partition."
)


def refuse_weight(table: Any) -> None:
    """Refuse what torch's tables take as first values, or to be frozen."""
    if table._weight is not None or getattr(table, "_freeze", False):
        raise TypeError(NO_WEIGHT.format(name=type(table).__name__))


def limit_row_norms(p: View, weight: Tensor, input: Tensor) -> Tensor:
    """The weight with looked-up rows at most ``max_norm`` long; its gradient is the weight's, as in the module."""
    if under_vmap():  # the in-place kernel has no batching rule
        norms = weight.detach().norm(p.norm_type, dim=1, keepdim=True)
        scale = torch.where(norms > p.max_norm, p.max_norm / (norms + 1e-7), 1.0)
        return weight + (weight.detach() * scale - weight.detach())
    weight = weight.clone()  # F.embedding would shorten rows of the params in place
    torch.embedding_renorm_(weight.detach(), input.contiguous(), p.max_norm, p.norm_type)
    return weight


def normal_except_row(row: int | None) -> init.Scheme:
    """Numbers from the normal distribution, but for one row of zeros."""
    return init.normal() if row is None else init.Scheme(_normal_but_one_row, (("row", row),))


def _normal_but_one_row(draw: Draw, row: int) -> Tensor:
    table = draw.fill("normal", 0.0, 1.0)
    if draw.device.type == "meta":
        return table
    keep = torch.arange(draw.shape[0], device=table.device) != row
    return torch.where(keep[:, None], table, table.new_zeros(()))

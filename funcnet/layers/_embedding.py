"""Look-up tables, the counterpart of torch/nn/modules/sparse.py. Axes: V entries, E embedding, * any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.types import Device

from funcnet import init
from funcnet._context import under_vmap
from funcnet.core import Param, View
from funcnet.init.internals import TensorRequest
from funcnet.layers._layer import Layer


class Embedding(Layer):
    """Rows of a table, by index.

    Args:
        num_embeddings: number of rows V.
        embedding_dim: size E of a row.
        padding_idx: a row that starts at zero and gets no gradient.
        max_norm: rows that are looked up and are longer than this are shortened to it. The module writes the shortened
            rows to its weight; here the result and the gradient are the same and ``params`` stay as they are.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide gradients by how often an index occurs in ``input``.
        sparse: make the gradient of the weight a sparse tensor; under vmap it is dense.
        device, dtype: the defaults of :meth:`init`.

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
    device: Device = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        refuse_tensor_arguments(self, self._weight, self._freeze)
        super().__post_init__()

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
        return f"input of ints in [0, {self.num_embeddings})"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        weight = p.weight
        if p.max_norm is not None:
            weight = limit_row_norms(p, weight, input)
        sparse = p.sparse and not under_vmap()  # vmap has no rule for making sparse tensors
        return F.embedding(input, weight, p.padding_idx, None, p.norm_type, p.scale_grad_by_freq, sparse)


NO_WEIGHT = (
    "{name} holds no tensor, so it takes none: net = funcnet.{name}(*weight.shape) and params = {{'weight': weight}}. "
    "To train all else, keep it out by funcnet.tree.partition."
)


def refuse_tensor_arguments(table: Layer, weight: object, freeze: bool = False) -> None:
    """Refuse first values as a tensor and the flag that freezes them, which torch's tables accept."""
    if weight is not None or freeze:
        raise TypeError(NO_WEIGHT.format(name=type(table).__name__))


def limit_row_norms(p: View, weight: Tensor, input: Tensor) -> Tensor:
    """The weight with looked-up rows at most ``max_norm`` long. Its gradient passes unchanged, as in the module."""
    if under_vmap():  # the in-place kernel has no batching rule
        norms = weight.detach().norm(p.norm_type, dim=1, keepdim=True)
        scale = torch.where(norms > p.max_norm, p.max_norm / (norms + 1e-7), 1.0)
        return weight + (weight.detach() * scale - weight.detach())
    weight = weight.clone()  # F.embedding would shorten rows of the params in place
    torch.embedding_renorm_(weight.detach(), input.contiguous(), p.max_norm, p.norm_type)
    return weight


def normal_except_row(row: int | None) -> init.Scheme:
    """Draws from the normal distribution, with zeros in one row."""
    return init.normal() if row is None else init.Scheme(_fill_normal_except_row, (("row", row),))


def _fill_normal_except_row(request: TensorRequest, row: int) -> Tensor:
    table = request.fill_random("normal", 0.0, 1.0)
    if request.device.type == "meta":
        return table
    is_drawn = torch.arange(request.shape[0], device=table.device) != row
    return torch.where(is_drawn[:, None], table, table.new_zeros(()))

"""Parts of transformers of which each rank computes a share: of the heads, of the inner features, of the vocabulary.

Each is a net of the sizes that this rank has, and asks the run on many ranks for the others. A value is either the same
on all ranks that share a layer, or a summand of one: ``sum_over_ranks`` leads from summands to a common value, and
``hand_to_ranks`` from a common value to the shares. So a layer takes two sums forward and two backward.

Source: Shoeybi et al., Megatron-LM, 2019. Axes: N batch, L sequence, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet._context import under_vmap
from funcnet._errors import RandomnessError
from funcnet.core import Param, View
from funcnet.core.internals import StockNet
from funcnet.layers import LayerNorm
from funcnet.models.internals import LlamaRMSNorm, SelfAttention
from funcnet.ranks import Groups, RankRun, current_run, hand_to_ranks, sum_over_ranks
from funcnet.ranks.internals import ShardedAxis


def _running() -> RankRun:
    run = current_run()
    assert run is not None, "the shares of ranks are nets of a run on many ranks"
    return run


def _sharing_groups() -> Groups:
    """Those of the ranks that share each layer."""
    return _running().sharing_groups


def _own_piece(size: int) -> tuple[int, int]:
    """Where the share that this rank has of an axis begins, and its length."""
    (group,) = _sharing_groups()
    return ShardedAxis(0, size).piece(group.size(), group.rank())


class SharedLayerNorm(LayerNorm):
    """A layer norm whose output goes to the shares of all ranks."""

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        return hand_to_ranks(_sharing_groups(), LayerNorm.forward(p, input))[0]


class SharedRMSNorm(LlamaRMSNorm):
    """Llama's norm, whose output goes to the shares of all ranks."""

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        return hand_to_ranks(_sharing_groups(), LlamaRMSNorm.forward(p, x))[0]


class HeadsOfRank(SelfAttention):
    """The heads of a self-attention that this rank has; it draws what one process draws for them."""

    @staticmethod
    def forward(p: View, *inputs: Any, **kwargs: Any) -> Any:
        run = _running()
        if under_vmap() and p.training and p.dropout > 0:
            raise RandomnessError(
                "attention whose heads are shared by ranks drops no weights under vmap: loop over the examples, or "
                "set attention_dropout=0."
            )
        with run.drawing_for_heads():
            return SelfAttention.forward(p, *inputs, **kwargs)


class RowsOfLinear(StockNet):
    """An affine map of which each rank has some input features: the sum of all their products, then the bias.

    Params: weight (O, I / ranks), bias (O,), which all ranks have.
    """

    in_features: int
    out_features: int
    bias: bool

    def parts(self) -> Mapping[str, Any]:
        weight = Param((self.out_features, self.in_features))
        return {"weight": weight, "bias": Param(self.out_features) if self.bias else None}

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        y = sum_over_ranks(_sharing_groups(), F.linear(x, p.weight))[0]
        return y if p.bias is None else y + p.bias


class TokensOfRank(StockNet):
    """A table of which each rank has some rows. It returns the same rows on all of them.

    Params: weight (V of this rank, D).
    Raises: ShapeError for a token that no rank has.
    """

    vocab_size: int
    rows: int
    features: int
    padding_idx: int | None = None

    def parts(self) -> Mapping[str, Any]:
        return {"weight": Param((self.rows, self.features))}

    def expects(self) -> str:
        return f"input of ints in [0, {self.vocab_size})"

    @staticmethod
    def forward(p: View, input: Tensor) -> Tensor:
        start, count = _own_piece(p.vocab_size)
        is_own = (input >= start) & (input < start + count)
        is_token = (input >= 0) & (input < p.vocab_size)
        # an index that is no token stays out of range, so that the kernel refuses it
        index = torch.where(is_own, input - start, torch.where(is_token, 0, count))
        padding = None if p.padding_idx is None else p.padding_idx - start
        rows = F.embedding(index, p.weight, padding if padding is not None and 0 <= padding < count else None)
        return sum_over_ranks(_sharing_groups(), torch.where(is_own.unsqueeze(-1), rows, 0.0))[0]


class LogitsOfRank(StockNet):
    """A map to logits of which each rank has some tokens. It returns the logits of all tokens on all ranks.

    Params: weight (V of this rank, D).
    """

    features: int
    vocab_size: int
    rows: int

    def parts(self) -> Mapping[str, Any]:
        return {"weight": Param((self.rows, self.features))}

    @staticmethod
    def forward(p: View, x: Tensor) -> Tensor:
        start, count = _own_piece(p.vocab_size)
        logits = F.pad(F.linear(x, p.weight), (start, p.vocab_size - start - count))
        return sum_over_ranks(_sharing_groups(), logits)[0]  # sums with zeros are exact, and have every derivative

"""What the models are made of.

Axes: N batch, L sequence, D hidden, H heads of queries, K heads of keys and values, E features of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet import init, random
from funcnet._context import beyond_one_gradient
from funcnet.combinators import ModuleList
from funcnet.core import InitContext, Net, Param
from funcnet.core.internals import Edits, StockNet
from funcnet.layers import Linear
from funcnet.models._stack import Stack
from funcnet.tree import join


class Model(StockNet, fields_in_view=False):
    """A transformer: first values are those its paper draws, normal numbers, zeros for biases, ones for norms."""

    def standard_deviation(self, path: str) -> float:
        """Of the first values of a weight."""
        return 0.02

    def expects(self) -> str:
        return "input_ids (N, L) of ints, and attention_mask (N, L) or none"

    def first_values(self, start: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        for name, spec in self._all_entries.items():
            where = join(path, name)
            if where in start.aliases:
                continue
            *parents, leaf = name.split(".")
            if leaf == "bias":
                scheme = init.constant(0.0)
            elif parents[-1].startswith("norm"):
                scheme = init.constant(1.0)
            else:
                scheme = init.normal(0.0, self.standard_deviation(name))
            yield where, start.init_tensor(Param(spec.shape, scheme), where, self)


def tied(net: Net, aliases: Mapping[str, str]) -> None:
    """Make ties part of a net that is being built; see ``Net.tie``."""
    object.__setattr__(net, "_edits", Edits(aliases=tuple(aliases.items())))


def layers_of(layer: Callable[[int], Net], count: int, stacked: bool) -> Net:
    """All layers, as tensors of their own or stacked."""
    return Stack(layer(0), count) if stacked else ModuleList(map(layer, range(count)))


class Conv1D(StockNet):
    """Affine map with the bits of GPT-2's, whose weight lies in memory as (in, out).

    The weight here is (out, in), as everywhere in torch. BLAS rounds the two ways to multiply otherwise, so it is
    turned in each call, which costs one copy of it.

    Params: weight (O, I), bias (O,).  Shape: x (*, I) -> y (*, O).
    Source: torch.addmm, as transformers.pytorch_utils.Conv1D.
    """

    in_features: int
    out_features: int

    def parts(self) -> Mapping[str, Any]:
        return {"weight": Param((self.out_features, self.in_features)), "bias": Param(self.out_features)}

    @staticmethod
    def forward(p: Any, x: Tensor) -> Tensor:
        return conv1d(x, (p.weight,), (p.bias,))


def conv1d(x: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> Tensor:
    """One product of ``x`` with all weights side by side."""
    weight = torch.cat([weight.t() for weight in weights], 1) if len(weights) > 1 else weights[0].t().contiguous()
    bias = torch.cat(biases) if len(biases) > 1 else biases[0]
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[1])


class Attention(StockNet):
    """Self-attention with separate or fused projections, and as many or fewer heads for keys and values.

    What transformers multiplies apart (Llama, BERT) is multiplied apart also if it is fused here, and what it
    multiplies at once (GPT-2) also if it is split here, because the bits are others otherwise.

    Args:
        hidden_size: D.
        num_heads, num_kv_heads, head_dim: H, K and E.
        bias: whether the projections have one.
        fused_qkv: whether ``qkv`` holds the rows of ``q``, ``k`` and ``v``, in this order.
        dropout: probability that a weight of the attention is zeroed in training.
        scale: factor of the scores.
        conv1d: multiply as GPT-2 does.

    Params: qkv or q, k, v, and out.
    """

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: bool
    fused_qkv: bool
    dropout: float
    scale: float
    conv1d: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows of q, k and v."""
        return (self.num_heads * self.head_dim, *(self.num_kv_heads * self.head_dim,) * 2)

    def parts(self) -> Mapping[str, Any]:
        def affine(rows: int) -> Net:
            return Conv1D(self.hidden_size, rows) if self.conv1d else Linear(self.hidden_size, rows, self.bias)

        rows = {"qkv": sum(self.sizes)} if self.fused_qkv else dict(zip("qkv", self.sizes, strict=True))
        width = self.sizes[0]
        out = Conv1D(width, self.hidden_size) if self.conv1d else Linear(width, self.hidden_size, self.bias)
        return {**{name: affine(count) for name, count in rows.items()}, "out": out}

    def constants(self) -> Mapping[str, Any]:
        return {**super().constants(), "sizes": self.sizes}

    def draws(self, training: bool) -> bool:
        return training and self.dropout > 0

    @staticmethod
    def forward(
        p: Any, x: Tensor, mask: Tensor | None, causal: bool, rotate: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        q, k, v = (part.view(*x.shape[:-1], -1, p.head_dim).transpose(1, 2) for part in _projected(p, x))
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return p.out(_attended(p, q, k, v, mask, causal).transpose(1, 2).reshape(*x.shape[:-1], -1))


def _projected(p: Any, x: Tensor) -> tuple[Tensor, ...]:
    fused = p.fused_qkv
    if p.conv1d:
        parts = (p.qkv,) if fused else (p.q, p.k, p.v)
        return conv1d(x, tuple(q.weight for q in parts), tuple(q.bias for q in parts)).split(p.sizes, -1)
    if not fused:
        return p.q(x), p.k(x), p.v(x)
    biases = p.qkv.bias.split(p.sizes) if p.bias else (None, None, None)
    return tuple(F.linear(x, weight, bias) for weight, bias in zip(p.qkv.weight.split(p.sizes), biases, strict=True))


def _attended(p: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention as transformers' sdpa calls it: heads of keys are repeated by the kernel only where no mask is."""
    groups = p.num_heads // p.num_kv_heads
    if groups > 1 and (mask is not None or p.head_dim > 256):
        k, v = (_repeated(x, groups) for x in (k, v))
        groups = 1
    causal = causal and mask is None and q.shape[2] > 1
    if p.training and p.dropout > 0:
        options: Any = {"scale": p.scale, "enable_gqa": groups > 1, "rng": p.rng}
        return random.scaled_dot_product_attention(q, k, v, mask, p.dropout, causal, **options)
    if beyond_one_gradient():  # the kernel has no rule for vmap, jvp, or a second derivative
        options = {"scale": p.scale, "enable_gqa": groups > 1, "rng": None}
        return random.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, **options)
    return F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=p.scale, enable_gqa=groups > 1)


def _repeated(x: Tensor, groups: int) -> Tensor:
    """Each head ``groups`` times: (N, K, L, E) -> (N, K * groups, L, E)."""
    return x.repeat_interleave(groups, 1)


def attention_mask(given: Tensor | None, causal: bool) -> Tensor | None:
    """Where attention may go, (N, 1, L, L), from what is no padding, (N, L); None where no mask is needed.

    A mask that is given counts as one even if it hides nothing, which a pure function cannot look at.
    """
    if given is None:
        return None
    if given.dim() != 2:
        raise ValueError(f"attention_mask has shape (N, L), got {tuple(given.shape)}")
    seen = given.to(torch.bool)[:, None, None, :]
    length = given.shape[-1]
    whole = torch.ones(length, length, dtype=torch.bool, device=given.device)
    return (whole.tril() if causal else whole) & seen


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}
"""Activations by the names they have in configs."""

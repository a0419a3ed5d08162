"""What GPT-2, Llama and BERT have in common: their first values, their ties, their layers and their activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from funcnet import init
from funcnet._typing import Shape
from funcnet.combinators import ModuleList, Stack
from funcnet.core import InitContext, Net, Param
from funcnet.core.internals import Edits, StockNet
from funcnet.tree import join


class TransformerModel(StockNet, fields_in_view=False):
    """A transformer with the first values of its paper: normal weights, zeros for biases, ones for norms."""

    def standard_deviation(self, path: str) -> float:
        """The standard deviation of the first values of a weight."""
        return 0.02

    def expects(self) -> str:
        return "input_ids (N, L) of ints, and attention_mask (N, L) or none"

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        layers = self._children["layers"]
        count = layers.count if isinstance(layers, Stack) else 0
        stacked = [name for name in self._all_entries if count and name.startswith("layers.")]
        pieces: dict[str, list[Tensor]] = {name: [] for name in stacked}
        for name, spec in self._all_entries.items():
            if name not in pieces:
                yield from self._first_value(context, path, name, spec.sizes)
            elif name == stacked[0]:
                for index in range(count):  # one layer after the other, as separate layers draw
                    for inner in stacked:
                        own_name = f"layers.{index}.{inner.removeprefix('layers.')}"
                        sizes = self._all_entries[inner].sizes[1:]
                        pieces[inner] += dict(self._first_value(context, path, own_name, sizes)).values()
        for name, values in pieces.items():
            yield join(path, name), torch.stack(values)

    def _first_value(self, context: InitContext, path: str, name: str, sizes: Shape) -> Iterator[tuple[str, Tensor]]:
        """The path and first value of one tensor; nothing for an alias."""
        full_path = join(path, name)
        if full_path not in context.aliases:
            *parents, leaf = name.split(".")
            if leaf == "bias":
                scheme = init.constant(0.0)
            elif parents[-1].startswith("norm"):
                scheme = init.constant(1.0)
            else:
                scheme = init.normal(0.0, self.standard_deviation(name))
            yield full_path, context.init_tensor(Param(sizes, scheme), full_path, self)


def set_ties(net: Net, aliases: Mapping[str, str]) -> None:
    """Make ties part of a net that is being built; see ``Net.tie``."""
    net.__setstate__({"_edits": Edits(aliases=tuple(aliases.items()))})


def make_layers(make_layer: Callable[[int], Net], count: int, stacked: bool) -> Net:
    """All layers, each with its own tensors or stacked.

    Args:
        make_layer: makes the layer of a number; stacked layers are all like the first.
        count: how many layers there are.
        stacked: whether their tensors are stacked.
    """
    return Stack(make_layer(0), count) if stacked else ModuleList(map(make_layer, range(count)))


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

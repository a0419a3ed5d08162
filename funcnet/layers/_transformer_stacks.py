"""Stacks of transformer layers, counterparts of those in torch/nn/modules/transformer.py.

Axes: S sources, T targets, N batch, E features.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._context import under_transform
from funcnet._torch import canonical_mask, detect_causal_mask, none_or_dtype
from funcnet.combinators import ModuleList
from funcnet.core import InitContext, Net, View
from funcnet.core.internals import check_part
from funcnet.layers._layer import Layer
from funcnet.random import Stream
from funcnet.tree import join


class _Stack(Layer):
    """The base of both stacks: equal layers in sequence, and a norm. Its first field, under any name, is the layer."""

    calls_parts = True

    def list_unread_attributes(self) -> frozenset[str]:
        return frozenset({"use_nested_tensor"})  # chosen for speed

    def __post_init__(self: Any) -> None:
        name = fields(self)[0].name
        for part in (name, "norm"):
            net = getattr(self, part)
            check_part(part, net)
            if not isinstance(net, Net) and (net is not None or part == name):
                raise TypeError(f"{self.title()}: {part} is a net, got {net!r:.80}.")
        if self.num_layers < 1:
            raise ValueError(f"{self.title()} has at least one layer, got num_layers={self.num_layers}.")
        attention = getattr(self, name)._parts.get("self_attn")
        if not hasattr(attention, "batch_first"):
            raise ValueError(f"{self.title()}: {name} has no self_attn.batch_first, which says where sequences lie.")
        super().__post_init__()

    @classmethod
    def fields_from_children(cls, children: Mapping[str, Net]) -> Mapping[str, Any]:
        layers: Any = children["layers"]  # a ModuleList
        return {fields(cls)[0].name: layers[0], "num_layers": len(layers), "norm": children.get("norm")}

    def parts(self: Any) -> dict[str, Any]:
        layer = getattr(self, fields(self)[0].name)
        return {
            "layers": ModuleList([layer] * self.num_layers),
            "norm": self.norm,
            "batch_first": layer.self_attn.batch_first,
        }

    def first_values(self: Any, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        """With a Key each layer has its own values; with a seed all have the first one's, as the module copies it."""
        if not isinstance(context.rng, Stream):
            yield from super().first_values(context, path)
            return
        layer, layers_path = getattr(self, fields(self)[0].name), join(path, "layers")
        if any(join(layers_path, name) not in context.aliases for name in self.layers._all_entries):
            first = dict(context._replace(aliases={}).init_net(layer, ""))
            for index, stacked in enumerate(self.layers):
                layer_path = join(layers_path, str(index))
                if stacked == layer:
                    yield from ((join(layer_path, name), value.clone()) for name, value in first.items())
                else:
                    yield from context.init_net(stacked, layer_path)
        if self.norm is not None:
            yield from context.init_net(self.norm, join(path, "norm"))

    def as_module(self) -> nn.Module:
        with ignore_nested_tensor_warning():
            return super().as_module()


class TransformerEncoder(_Stack):
    """Equal layers in sequence, then a norm.

    In eval mode without gradients the module may turn a padded batch into a nested tensor. Then its outputs at padded
    positions are zero and the others differ by rounding. A net computes all positions, as the module does in training.

    Args:
        encoder_layer: a net with the inputs of a :class:`TransformerEncoderLayer` and with ``self_attn.batch_first``.
        num_layers: how many layers there are, each with its own tensors.
        norm: a net that is applied last, or None.
        enable_nested_tensor, mask_check: options of the module's fast path; no effect on a net.

    Inputs: src, and masks for every layer. ``is_causal`` says that ``mask`` hides exactly the later positions; if it is
    None and the call is eager, the mask is compared with such a mask.
    Params: those of layers and norm. With an int seed all layers start equal, as the module copies the first one; with
    a Key they differ.
    Shape:  src (S, N, E), or (S, E) -> y of the same shape.
    Source: torch.nn.TransformerEncoder.

    >>> from funcnet import TransformerEncoderLayer
    >>> net = TransformerEncoder(TransformerEncoderLayer(8, 2, 16), 2)
    >>> net(net.init(0)[0], torch.ones(5, 3, 8)).shape
    torch.Size([5, 3, 8])
    """

    encoder_layer: Net
    num_layers: int
    norm: Net | None = None
    enable_nested_tensor: bool = True
    mask_check: bool = True

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return {"enable_nested_tensor": module.enable_nested_tensor, "mask_check": module.mask_check}

    @staticmethod
    def forward(
        p: View,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        padding = src_key_padding_mask
        if padding is not None:  # converted to floats once, instead of in every layer
            padding = canonical_mask(padding, "src_key_padding_mask", none_or_dtype(mask), "mask", src.dtype)
        if mask is not None:
            mask = canonical_mask(mask, "mask", None, "", src.dtype, False)
        causal = _is_causal(mask, is_causal, src, p.batch_first)
        x = src
        for layer in p.layers:
            x = layer(x, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        return x if p.norm is None else p.norm(x)


class TransformerDecoder(_Stack):
    """Equal layers in sequence, each of which attends to the memory, then a norm.

    Args:
        decoder_layer: a net with the inputs of a :class:`TransformerDecoderLayer` and with ``self_attn.batch_first``.
        num_layers, norm: as for :class:`TransformerEncoder`.

    Inputs: tgt, memory, and masks for every layer; ``tgt_is_causal`` is like ``is_causal`` of the encoder.
    Params: as for :class:`TransformerEncoder`.
    Shape:  tgt (T, N, E) and memory (S, N, E), or both without N -> y of the shape of tgt.
    Source: torch.nn.TransformerDecoder.

    >>> from funcnet import TransformerDecoderLayer
    >>> net = TransformerDecoder(TransformerDecoderLayer(8, 2, 16), 2)
    >>> net(net.init(0)[0], torch.ones(4, 3, 8), torch.ones(5, 3, 8)).shape
    torch.Size([4, 3, 8])
    """

    decoder_layer: Net
    num_layers: int
    norm: Net | None = None

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return {}

    @staticmethod
    def forward(
        p: View,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        causal = _is_causal(tgt_mask, tgt_is_causal, tgt, p.batch_first)
        x = tgt
        for layer in p.layers:
            x = layer(
                x,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=causal,
                memory_is_causal=memory_is_causal,
            )
        return x if p.norm is None else p.norm(x)


@contextlib.contextmanager
def ignore_nested_tensor_warning() -> Iterator[None]:
    """Hide the warning of nn.TransformerEncoder that its fast path is off, as a net has no fast path."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "enable_nested_tensor is True")
        yield


def _is_causal(mask: Tensor | None, hint: bool | None, x: Tensor, batch_first: bool) -> bool:
    """Whether the mask hides exactly the later positions: as the hint says, else by a comparison of the mask."""
    if hint is not None or mask is None:
        return hint is True
    if torch.compiler.is_compiling() or under_transform():
        return False  # the values of the mask may be unknown here; attention adds it to the scores instead
    return detect_causal_mask(mask, None, x.shape[1 if batch_first and x.dim() == 3 else 0])

"""An encoder and a decoder, the counterpart of Transformer in torch/nn/modules/transformer.py.

Axes: S sources, T targets, N batch, E features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcnet import init
from funcnet.core import Net, Param, Start, View
from funcnet.core._parts import check_part
from funcnet.layers._layer import Layer
from funcnet.layers._norm import LayerNorm
from funcnet.layers._transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer
from funcnet.layers._transformer_stacks import TransformerDecoder, TransformerEncoder, ignore_nested_tensor_warning
from funcnet.random.internals import rng_at_path
from funcnet.tree import join


class Transformer(Layer):
    """An encoder and a decoder that looks at what the encoder gives.

    Args:
        d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype, impl: as for :class:`TransformerEncoderLayer`; of all layers, and of the two norms at the ends.
        num_encoder_layers, num_decoder_layers: how many layers there are.
        custom_encoder, custom_decoder: nets to take the place of the encoder, or the decoder; called as those are.

    Inputs: src, tgt, and the masks and hints of :class:`TransformerEncoder` and :class:`TransformerDecoder`.
    Params: of encoder and decoder. Their matrices are drawn anew when both are made, by xavier_uniform.
    Shape:  src (S, N, E) and tgt (T, N, E), or both without N -> as tgt.
    Raises: ShapeError if sizes of src and tgt do not fit.
    Source: torch.nn.Transformer.

    >>> net = Transformer(8, 2, 1, 1, 16)
    >>> net(net.init(0)[0], torch.ones(5, 3, 8), torch.ones(4, 3, 8)).shape
    torch.Size([4, 3, 8])
    """

    d_model: int = 512
    nhead: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str | Callable[[Tensor], Tensor] | Net = F.relu
    custom_encoder: Net | None = None
    custom_decoder: Net | None = None
    layer_norm_eps: float = 1e-5
    batch_first: bool = False
    norm_first: bool = False
    bias: bool = True
    device: Any = None
    dtype: torch.dtype | None = None
    impl: str = field(default="fused", kw_only=True)

    calls_parts = True

    def __post_init__(self) -> None:
        for name in ("activation", "custom_encoder", "custom_decoder"):
            check_part(name, getattr(self, name))
        unused = {"num_encoder_layers"} if self.custom_encoder else set()
        unused |= {"num_decoder_layers"} if self.custom_decoder else set()
        unused |= {*_OF_LAYERS} if self.custom_encoder and self.custom_decoder else set()
        for field_ in fields(self):  # so that equal nets are equal records
            if field_.name in unused:
                object.__setattr__(self, field_.name, field_.default)
        super().__post_init__()
        if not unused.issuperset(_OF_LAYERS):
            made = self.decoder if self.custom_encoder else self.encoder  # refused here if its arguments are bad
            object.__setattr__(self, "activation", made.layers[0].activation)

    def as_module(self) -> nn.Module:
        with ignore_nested_tensor_warning():
            module: Any = super().as_module()
            if self.impl != "fused":
                module.encoder, module.decoder = self.encoder.as_module(), self.decoder.as_module()
        return module

    @classmethod
    def fields_from_module(cls, module: Any) -> dict[str, Any]:
        return {"impl": getattr(module, "_funcnet_impl", "fused")}

    @classmethod
    def from_module(cls, module: Any, children: Mapping[str, Any] = MappingProxyType({})) -> Net | None:
        """The record with the fewest custom parts that has these children."""
        same = {name: getattr(module, name) for name in ("d_model", "nhead", "batch_first")}
        for custom in ((), ("decoder",), ("encoder",), ("encoder", "decoder")):
            given = {f"custom_{name}": children[name] for name in custom}
            stacks = {name: children[name] for name in ("encoder", "decoder") if name not in custom}
            if not all(isinstance(stack, (TransformerEncoder, TransformerDecoder)) for stack in stacks.values()):
                continue
            for name, stack in stacks.items():
                given[f"num_{name}_layers"] = stack.num_layers
                given |= {option: getattr(stack.layers[0], option, None) for option in _OF_LAYERS}
            net = cls(**{**cls.fields_from_module(module), **given, **same})
            if net._children == children:
                return net
        return None

    def parts(self) -> dict[str, Any]:
        made = {"device": self.device, "dtype": self.dtype}

        def stack(kind: Any, layer: Any, count: int) -> Net:
            options = {name: getattr(self, name) for name in ("batch_first", *_OF_LAYERS)}
            norm = LayerNorm(self.d_model, self.layer_norm_eps, True, self.bias, **made)
            return kind(layer(self.d_model, self.nhead, **options, **made), count, norm)

        return {
            "encoder": self.custom_encoder
            or stack(TransformerEncoder, TransformerEncoderLayer, self.num_encoder_layers),
            "decoder": self.custom_decoder
            or stack(TransformerDecoder, TransformerDecoderLayer, self.num_decoder_layers),
        }

    def drawing_order(self) -> list[str]:
        there_first = self.custom_decoder is not None and self.custom_encoder is None
        return ["decoder", "encoder"] if there_first else ["encoder", "decoder"]

    def first_values(self, start: Start, path: str) -> Iterator[tuple[str, Tensor]]:
        made = dict(super().first_values(start, path))
        for name, spec in self._all_entries.items():
            where = join(path, name)
            if isinstance(spec, Param) and where not in start.aliases and made[where].dim() > 1:
                old, draws = made[where], rng_at_path(start.rng, where)
                made[where] = init.xavier_uniform()(draws, tuple(old.shape), dtype=old.dtype, device=old.device)
        yield from made.items()

    def expects(self) -> str:
        size = self.d_model
        order = "(N, S, {0}) and tgt (N, T, {0})" if self.batch_first else "(S, N, {0}) and tgt (T, N, {0})"
        return f"src {order.format(size)}, or both without N"

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A mask (sz, sz) that hides what comes later: -inf above the diagonal, 0 elsewhere."""
        return nn.Transformer.generate_square_subsequent_mask(sz, device, dtype)

    @staticmethod
    def forward(
        p: View,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        batch = 0 if p.batch_first else 1
        if src.size(batch) != tgt.size(batch) and src.dim() == 3:
            raise ValueError("src and tgt have batches of one size")
        if src.size(-1) != p.d_model or tgt.size(-1) != p.d_model:
            raise ValueError(f"the last axes of src and tgt are d_model={p.d_model}")
        memory = p.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return p.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )


_OF_LAYERS = ("dim_feedforward", "dropout", "activation", "layer_norm_eps", "norm_first", "bias", "impl")

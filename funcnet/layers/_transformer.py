"""An encoder and a decoder, the counterpart of Transformer in torch/nn/modules/transformer.py.

Axes: S sources, T targets, N batch, E features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import Device

from funcnet import init
from funcnet.core import InitContext, Net, Param, View
from funcnet.core.internals import check_part
from funcnet.layers._layer import FACTORY_FIELDS, NO_CHILDREN, Layer
from funcnet.layers._norm import LayerNorm
from funcnet.layers._transformer_layers import TransformerDecoderLayer, TransformerEncoderLayer
from funcnet.layers._transformer_stacks import TransformerDecoder, TransformerEncoder, ignore_nested_tensor_warning
from funcnet.random.internals import rng_at_path
from funcnet.tree import join


class Transformer(Layer):
    """An encoder, and a decoder that attends to the output of the encoder.

    Args:
        d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device,
            dtype, impl: as for :class:`TransformerEncoderLayer`, for all layers and for the final norms.
        num_encoder_layers, num_decoder_layers: how many layers there are.
        custom_encoder, custom_decoder: nets to use as the encoder, or the decoder; they get the same inputs.

    Inputs: src, tgt, and the masks and hints of :class:`TransformerEncoder` and :class:`TransformerDecoder`.
    Params: those of encoder and decoder. When both have been built, their matrices are drawn again, by xavier_uniform.
    Shape:  src (S, N, E) and tgt (T, N, E), or both without N -> y of the shape of tgt.
    Raises: ShapeError if the sizes of src and tgt do not fit.
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
    device: Device = None
    dtype: torch.dtype | None = None
    impl: str = field(default="fused", kw_only=True)

    calls_parts = True

    def __post_init__(self) -> None:
        for name in ("activation", "custom_encoder", "custom_decoder"):
            check_part(name, getattr(self, name))
        unused = {"num_encoder_layers"} if self.custom_encoder else set()
        unused |= {"num_decoder_layers"} if self.custom_decoder else set()
        unused |= {*_LAYER_OPTIONS} if self.custom_encoder and self.custom_decoder else set()
        for record_field in fields(self):  # unused fields get their defaults, so that equal nets are equal records
            if record_field.name in unused:
                object.__setattr__(self, record_field.name, record_field.default)
        super().__post_init__()
        if not unused.issuperset(_LAYER_OPTIONS):
            stack = self._parts["decoder" if self.custom_encoder else "encoder"]  # building it refuses bad arguments
            object.__setattr__(self, "activation", stack.layers[0].activation)

    def as_module(self) -> nn.Module:
        with ignore_nested_tensor_warning():
            module: Any = super().as_module()
            if self.impl != "fused":
                module.encoder, module.decoder = (self._parts[name].as_module() for name in ("encoder", "decoder"))
        return module

    @classmethod
    def fields_from_module(cls, module: nn.Module) -> dict[str, Any]:
        return {"impl": getattr(module, "_funcnet_impl", "fused")}

    @classmethod
    def from_module(cls, module: nn.Module, children: Mapping[str, Net] = NO_CHILDREN) -> Net | None:
        """The record with the fewest custom parts that has these children."""
        sizes = {name: getattr(module, name) for name in ("d_model", "nhead", "batch_first")}
        for custom in ((), ("decoder",), ("encoder",), ("encoder", "decoder")):
            options: dict[str, Any] = {f"custom_{name}": children[name] for name in custom}
            stacks: dict[str, Any] = {name: children[name] for name in ("encoder", "decoder") if name not in custom}
            if not all(isinstance(stack, (TransformerEncoder, TransformerDecoder)) for stack in stacks.values()):
                continue
            for name, stack in stacks.items():
                options[f"num_{name}_layers"] = stack.num_layers
                options |= {option: getattr(stack.layers[0], option, None) for option in _LAYER_OPTIONS}
            net = cls(**{**cls.fields_from_module(module), **options, **sizes})
            if net._children == children:
                return net
        return None

    def parts(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in ("batch_first", *_LAYER_OPTIONS, *FACTORY_FIELDS)}

        def build_stack(
            stack_class: Callable[[Net, int, Net], Net], layer_class: Callable[..., Net], num_layers: int
        ) -> Net:
            norm = LayerNorm(self.d_model, self.layer_norm_eps, True, self.bias, self.device, self.dtype)
            return stack_class(layer_class(self.d_model, self.nhead, **options), num_layers, norm)

        return {
            "encoder": self.custom_encoder
            or build_stack(TransformerEncoder, TransformerEncoderLayer, self.num_encoder_layers),
            "decoder": self.custom_decoder
            or build_stack(TransformerDecoder, TransformerDecoderLayer, self.num_decoder_layers),
        }

    def drawing_order(self) -> list[str]:
        is_decoder_first = self.custom_decoder is not None and self.custom_encoder is None
        return ["decoder", "encoder"] if is_decoder_first else ["encoder", "decoder"]

    def first_values(self, context: InitContext, path: str) -> Iterator[tuple[str, Tensor]]:
        values = dict(super().first_values(context, path))
        for name, spec in self._all_entries.items():
            entry_path = join(path, name)
            if isinstance(spec, Param) and entry_path not in context.aliases and values[entry_path].dim() > 1:
                old, rng = values[entry_path], rng_at_path(context.rng, entry_path)
                values[entry_path] = init.xavier_uniform()(rng, tuple(old.shape), dtype=old.dtype, device=old.device)
        yield from values.items()

    def expects(self) -> str:
        size = self.d_model
        order = "(N, S, {0}) and tgt (N, T, {0})" if self.batch_first else "(S, N, {0}) and tgt (T, N, {0})"
        return f"src {order.format(size)}, or both without N"

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """A mask (sz, sz) that hides later positions: -inf above the diagonal, 0 elsewhere."""
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


_LAYER_OPTIONS = ("dim_feedforward", "dropout", "activation", "layer_norm_eps", "norm_first", "bias", "impl")

"""What GPT-2 and Llama have in common as decoders: the shape of their caches, and how their params lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from funcnet._errors import TreeError
from funcnet._typing import Tree, TreeLike
from funcnet.core import Net
from funcnet.models._transformer_model import TransformerModel


class CacheShape(NamedTuple):
    """The sizes of a cache that follow from the model.

    Attributes:
        layers: how many layers have keys and values.
        heads: heads of keys and values, K.
        head_dim: features of a head, E.
    """

    layers: int
    heads: int
    head_dim: int


class DecoderModel(TransformerModel):
    """A transformer that continues texts: its calls take and return a cache."""

    @property
    def cache_shape(self) -> CacheShape:
        """The sizes of its caches."""
        raise NotImplementedError

    @property
    def max_length(self) -> int | None:
        """How many tokens have a position; None if there is no limit."""
        return None

    def expects(self) -> str:
        return "input_ids (N, L) of ints, attention_mask (N, L) or none, and a cache or none"

    def constants(self) -> Mapping[str, Any]:
        return {**super().constants(), "cache_shape": self.cache_shape}

    def lay_out(self, params: TreeLike) -> Tree:
        """The params as the body's kernels read them without a copy; see :func:`decoding_params`."""
        return dict(params)


def check_is_decoder(net: object, use: str) -> DecoderModel:
    """Refuse a net that continues no texts.

    Args:
        net: what the user gave.
        use: what it was given for, for the message.

    Raises:
        TypeError: if it is none of the decoders here.
    """
    if isinstance(net, DecoderModel):
        return net
    title = getattr(net, "title", None)
    name = title() if callable(title) else type(net).__name__
    raise TypeError(f"{use} is for the decoders of funcnet.models (GPT2, Llama), got {name}.")


def decoding_params(net: Net, params: TreeLike) -> Tree:
    """The same params, laid out in memory so that single tokens are decoded without copies of weights.

    GPT-2 multiplies by weights that lie in memory as (in, out), and its bits depend on that; params that lie as
    (out, in), as all of torch's do, are transposed in each call. For one token that costs more than the model. Here
    they are transposed once: numbers, shapes and outputs stay as they are, and strides differ. ``generate`` does it by
    itself; a loop of your own calls it once before.

    Args:
        net: a decoder of ``funcnet.models``.
        params: its params.

    Returns:
        A new tree; tensors that lie right are the same objects.

    Raises:
        TypeError: if ``net`` is no decoder.
        TreeError: if ``params`` is no tree.

    >>> from funcnet.models import GPT2
    >>> net = GPT2(50, 16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    >>> weight = decoding_params(net, net.init(0)[0])["layers"]["0"]["mlp"]["up"]["weight"]
    >>> weight.shape, weight.stride()
    (torch.Size([32, 8]), (1, 32))
    """
    if not isinstance(params, Mapping):
        raise TreeError(f"params is a nested dict of tensors, got {type(params).__name__}.")
    return check_is_decoder(net, "decoding_params").lay_out(params)

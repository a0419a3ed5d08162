"""Caches of keys and values: nested dicts of tensors that a call reads, and returns anew with more in them.

Axes: N batch, L new tokens, S slots, K heads of keys and values, E features of a head.

A cache is ``{"layers": {"0": {"keys": (N, K, S, E), "values": (N, K, S, E)}, ...}}``. In one that grows, every slot
holds a token. One of fixed size has ``"length"`` besides, an int64 tensor of shape () that says how many slots are
filled. As soon as a call had an ``attention_mask`` there is ``"mask"`` (N, S), which is true where there is a token
that is no padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from funcnet._context import can_read_numbers
from funcnet._errors import bullet_list
from funcnet._typing import Tree, TreeLike
from funcnet.combinators.internals import StackView
from funcnet.core import Net
from funcnet.models._decoder_model import CacheShape, DecoderModel, check_is_decoder
from funcnet.models._self_attention import Past, hide_padding
from funcnet.tree import flatten


def growing_cache(
    net: Net,
    params: TreeLike,
    batch_size: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tree:
    """An empty cache without a limit: each call returns one that is as much longer as the call had tokens.

    Args:
        net: a decoder of ``funcnet.models``.
        params: its params, whose dtype and device are those of the cache.
        batch_size: N, how many texts are decoded at once.
        dtype, device: if others than those of the params.

    Returns:
        A nested dict of tensors; see :func:`static_cache` for its entries. It has no "length".

    Raises:
        TypeError: if ``net`` is no decoder.

    >>> from funcnet.models import GPT2
    >>> net = GPT2(50, 16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> params, _ = net.init(0)
    >>> tokens = torch.tensor([[3, 1, 4]])
    >>> logits, cache = net(params, tokens, cache=growing_cache(net, params, 1))
    >>> logits, cache = net(params, torch.tensor([[1]]), cache=cache)
    >>> torch.allclose(logits[:, -1], net(params, torch.tensor([[3, 1, 4, 1]]))[:, -1])
    True
    >>> cache["layers"]["0"]["keys"].shape
    torch.Size([1, 2, 4, 4])
    """
    return {"layers": _make_layers(check_is_decoder(net, "growing_cache"), params, batch_size, 0, dtype, device)}


def static_cache(
    net: Net,
    params: TreeLike,
    batch_size: int,
    max_length: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tree:
    """An empty cache with room for a number of tokens: all calls return caches of one shape, so one compiled step
    serves them all.

    Args:
        net: a decoder of ``funcnet.models``.
        params: its params, whose dtype and device are those of the cache.
        batch_size: N, how many texts are decoded at once.
        max_length: S, how many tokens of a text fit in, padding included.
        dtype, device: if others than those of the params.

    Returns:
        A nested dict of tensors: ``layers.0.keys`` and ``layers.0.values`` (N, K, S, E), as for every layer; "length"
        (), the number of filled slots; and after a call with an ``attention_mask``, "mask" (N, S) of bools.

    Raises:
        TypeError: if ``net`` is no decoder.

    >>> from funcnet.models import Llama
    >>> net = Llama(50, 8, 12, 2, num_attention_heads=4, num_key_value_heads=2)
    >>> params, _ = net.init(0)
    >>> cache = static_cache(net, params, 1, max_length=16)
    >>> logits, cache = net(params, torch.tensor([[3, 1, 4]]), cache=cache)
    >>> cache["layers"]["0"]["keys"].shape, cache["length"]
    (torch.Size([1, 2, 16, 2]), tensor(3))
    """
    layers = _make_layers(check_is_decoder(net, "static_cache"), params, batch_size, max_length, dtype, device)
    keys = layers["0"]["keys"]
    return {"layers": layers, "length": torch.zeros((), dtype=torch.int64, device=keys.device)}


def _make_layers(
    net: DecoderModel,
    params: TreeLike,
    batch_size: int,
    slots: int,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tree:
    like = next(tensor for tensor in flatten(params).values() if tensor.is_floating_point())
    count, heads, head_dim = net.cache_shape

    def make_zeros() -> Tensor:
        return torch.zeros(batch_size, heads, slots, head_dim, dtype=dtype or like.dtype, device=device or like.device)

    return {str(index): {"keys": make_zeros(), "values": make_zeros()} for index in range(count)}


def measure_cache(cache: TreeLike | None) -> tuple[int, int | None]:
    """How many slots of a cache are filled, and how many it has; None if it grows."""
    layers = {} if cache is None else cache.get("layers", {})
    if cache is None or not layers:
        return 0, None
    slots = next(iter(layers.values()))["keys"].shape[2]
    return (int(cache["length"]), slots) if "length" in cache else (slots, None)


class Placement(NamedTuple):
    """Where the new tokens of a call stand among those of its cache.

    Attributes:
        positions: of the new tokens in their texts, (1, L) or (N, L).
        mask: where attention may go, broadcast to (N, 1, L, S); None if everything before a token is visible to it.
        pasts: what each layer is given; None for a call without a cache.
        other_entries: the entries of the next cache besides its layers.
    """

    positions: Tensor
    mask: Tensor | None
    pasts: tuple[Past, ...] | None
    other_entries: Tree

    def next_cache(self, entries: Iterable[tuple[Tensor, Tensor]]) -> Tree:
        """The cache that the call returns, from the keys and values of every layer."""
        layers = {str(index): {"keys": keys, "values": values} for index, (keys, values) in enumerate(entries)}
        return {"layers": layers, **self.other_entries}


def place_tokens(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: TreeLike | None,
    shape: CacheShape,
) -> Placement:
    """Where the tokens of a call stand.

    Args:
        input_ids: (N, L).
        attention_mask: (N, L), 0 where there is padding; None if there is none.
        position_ids: (N, L) or (1, L); None to count.
        cache: what was before them, or None.
        shape: the sizes that the cache must have.

    Raises:
        ValueError: if the cache does not fit, or has no room.
    """
    length = input_ids.shape[-1]
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        got = type(attention_mask).__name__
        raise TypeError(f"attention_mask is a tensor (N, L), got {got}; a cache is passed by its name, cache=")
    if cache is None:
        positions = torch.arange(length, device=input_ids.device).unsqueeze(0) if position_ids is None else position_ids
        return Placement(positions, causal_mask(attention_mask, 0, length, input_ids.device), None, {})
    check_cache(cache, shape, input_ids, attention_mask)
    layers = [cache["layers"][str(index)] for index in range(shape.layers)]
    slot_count = layers[0]["keys"].shape[2]
    if "length" not in cache:
        mask = _extend_growing_mask(cache.get("mask"), attention_mask, slot_count, length)
        positions = torch.arange(slot_count, slot_count + length, device=input_ids.device).unsqueeze(0)
        visible, slots = causal_mask(mask, slot_count, length, input_ids.device), None
        other_entries: Tree = {}
    else:
        past_length = cache["length"]
        if can_read_numbers() and past_length.device.type == "cpu" and int(past_length) + length > slot_count:
            raise ValueError(
                f"the cache is full: it has {slot_count} slots, {int(past_length)} are filled, and {length} more "
                f"tokens came. Make it with a larger max_length, or let it grow: funcnet.models.growing_cache"
            )
        slots = past_length + torch.arange(length, device=past_length.device)
        mask = _extend_static_mask(cache.get("mask"), attention_mask, past_length, slots, slot_count)
        positions = slots.unsqueeze(0)
        visible = torch.arange(slot_count, device=slots.device) <= slots[:, None]  # (L, S)
        visible = visible if mask is None else hide_padding(visible, mask)
        other_entries = {"length": past_length + length}
    if mask is not None:
        other_entries["mask"] = mask
        positions = _count_visible(mask, attention_mask, length)
    pasts = tuple((entry["keys"], entry["values"], slots) for entry in layers)
    return Placement(positions if position_ids is None else position_ids, visible, pasts, other_entries)


def causal_mask(mask: Tensor | None, past: int, length: int, device: torch.device) -> Tensor | None:
    """Where attention may go, broadcast to (N, 1, L, S), if S = past + L tokens stand in a row.

    It is None where attention needs no mask: without a past it takes a flag for that, and one token sees all before it.

    Args:
        mask: (N, S), 0 where there is padding; None if there is none.
        past: how many tokens were there before.
        length: L.
        device: of the result.
    """
    if mask is None and (length == 1 or not past):
        return None
    before = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)
    return before if mask is None else hide_padding(before, mask)


def _extend_growing_mask(mask: Tensor | None, new: Tensor | None, past: int, length: int) -> Tensor | None:
    if mask is None and new is None:
        return None
    like = mask if new is None else new
    assert like is not None
    before = like.new_ones(like.shape[0], past, dtype=torch.bool) if mask is None else mask
    after = like.new_ones(like.shape[0], length, dtype=torch.bool) if new is None else new.to(torch.bool)
    return torch.cat([before, after], 1)


def _extend_static_mask(
    mask: Tensor | None, new: Tensor | None, past_length: Tensor, slots: Tensor, slot_count: int
) -> Tensor | None:
    if mask is None and new is None:
        return None
    if mask is None:
        assert new is not None
        mask = (torch.arange(slot_count, device=slots.device) < past_length).expand(new.shape[0], -1)
    if new is None:
        new = mask.new_ones(mask.shape[0], len(slots))
    return mask.index_copy(1, slots, new.to(torch.bool))


def _count_visible(mask: Tensor, new: Tensor | None, length: int) -> Tensor:
    """The positions of new tokens whose texts have padding, (N, L): how many tokens of the text are before each."""
    total = mask.sum(-1, keepdim=True)  # with the new tokens
    if length == 1:
        return (total - 1).clamp(min=0)
    if new is None:
        return total - length + torch.arange(length, device=mask.device)
    counts = new.to(torch.int64).cumsum(-1)
    return (total - counts[:, -1:] + counts - 1).clamp(min=0)


def run_layers(
    layers: Iterable[Any], x: Tensor, pasts: tuple[Past, ...] | None, *inputs: Any
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Hidden states after all layers, and with a cache the keys and values of each.

    Args:
        layers: the layers of a body; each returns hidden states, and with a past the pair of these and its entry.
        x: hidden states (N, L, D).
        pasts: what each layer is given, or None.
        inputs: what else each layer takes.
    """
    entries = []
    if pasts is None and isinstance(layers, StackView):
        x = layers(x, *inputs)  # which is compiled once for all layers
    elif pasts is None:
        for layer in layers:
            x = layer(x, *inputs)
    else:
        for layer, past in zip(layers, pasts, strict=True):
            x, entry = layer(x, *inputs, past)
            entries.append(entry)
    return x, entries


def check_cache(cache: TreeLike, shape: CacheShape, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Refuse a cache that is not one of this model, or not one for these tokens; lists every problem.

    Raises:
        ValueError: if it does not fit.
    """
    makers = "funcnet.models.growing_cache and static_cache make one"
    layers = cache.get("layers") if isinstance(cache, Mapping) else None
    if not isinstance(layers, Mapping):
        got = f"a dict with {list(cache)}" if isinstance(cache, Mapping) else type(cache).__name__
        raise ValueError(f"cache is a nested dict with 'layers', got {got}; {makers}")
    if list(layers) != [str(index) for index in range(shape.layers)]:
        raise ValueError(f"the model has {shape.layers} layers, and the cache has {list(layers)}; {makers}")
    batch = input_ids.shape[0]
    slots: Any = next(
        (keys.shape[2] for keys in [layers["0"].get("keys")] if keys is not None and keys.dim() == 4), "S"
    )
    expected = (batch, shape.heads, slots, shape.head_dim)
    problems = []
    for index, entry in layers.items():
        for name in ("keys", "values"):
            got_shape = tuple(entry[name].shape) if name in entry else "nothing"
            if got_shape != expected:
                problems.append(f"layers.{index}.{name}: expected {expected}, got {got_shape}")
    if "mask" in cache and cache["mask"].shape != (batch, slots):
        problems.append(f"mask: expected {(batch, slots)}, got {tuple(cache['mask'].shape)}")
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        problems.append(
            f"attention_mask: expected {tuple(input_ids.shape)}, for the new tokens alone, as the cache remembers the "
            f"others; got {tuple(attention_mask.shape)}"
        )
    if problems:
        raise ValueError(
            f"the cache does not fit input_ids of shape {tuple(input_ids.shape)} and the model:"
            f"{bullet_list(problems)}\nA cache is for one model and one batch; {makers}"
        )

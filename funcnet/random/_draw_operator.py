"""The one operator that turns a Key into random numbers.

It is a ``torch.library`` operator, because nothing else passes grad, vmap, fullgraph, export and meta at once: it is a
pure function of its arguments, seeds a private generator, and takes size and stride (never the tensor they come from,
which torch.func.grad could not hand over). Strides matter: a mask for a channels_last input is filled in memory order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from funcnet.random._keys import seeded_generator

FILL_METHODS: dict[str, Callable[..., Tensor]] = {
    "bernoulli": Tensor.bernoulli_,
    "uniform": Tensor.uniform_,
    "normal": Tensor.normal_,
    "trunc_normal": nn.init.trunc_normal_,
    "orthogonal": nn.init.orthogonal_,
}
"""How a new tensor is filled: torch's own in-place fills, with their numbers in torch's order and ``generator=``."""

_LIBRARY = torch.library.Library("funcnet", "DEF")
_LIBRARY.define(
    "draw(Tensor key, int salt, SymInt[] size, SymInt[] stride, str kind, float[] numbers, "
    "ScalarType dtype, Device device) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _draw_eagerly(
    key: Tensor,
    salt: int,
    size: Sequence[int],
    stride: Sequence[int],
    kind: str,
    numbers: Sequence[float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    out = torch.empty_strided(size, stride, dtype=dtype, device=device)
    return FILL_METHODS[kind](out, *numbers, generator=seeded_generator(key, salt, device))


def _draw_without_values(
    key: Tensor,
    salt: int,
    size: Sequence[int],
    stride: Sequence[int],
    kind: str,
    numbers: Sequence[float],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device=device)


def _draw_for_each_key(info: object, in_dims: tuple[int, ...], key: Tensor, *arguments: Any) -> tuple[Tensor, int]:
    keys = key.movedim(in_dims[0], 0)
    return torch.stack([draw_operator(single_key, *arguments) for single_key in keys.unbind(0)]), 0


_LIBRARY.impl("draw", _draw_eagerly, "CompositeExplicitAutograd")
torch.library.register_fake("funcnet::draw", _draw_without_values, lib=_LIBRARY)
torch.library.register_vmap("funcnet::draw", _draw_for_each_key, lib=_LIBRARY)

draw_operator = torch.ops.funcnet.draw.default
"""``draw(key, salt, size, stride, kind, numbers, dtype, device)``: the same arguments give the same tensor."""

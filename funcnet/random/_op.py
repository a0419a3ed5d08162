"""The one operator that turns a Key into random numbers.

A ``torch.library`` operator, because nothing else passes grad, vmap, fullgraph, export and meta at once: it is a pure
function of its arguments, seeds a private generator, and takes size and stride (never the tensor they come from, which
torch.func.grad could not hand over). Equal strides matter: a mask for a channels_last input is filled in memory order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from funcnet.random._mix import mix_int

FILL: dict[str, Callable[..., Any]] = {
    "bernoulli": Tensor.bernoulli_,
    "uniform": Tensor.uniform_,
    "normal": Tensor.normal_,
    "trunc_normal": nn.init.trunc_normal_,
    "orthogonal": nn.init.orthogonal_,
}
"""How a fresh tensor is filled: torch's own in-place fills, with their numbers in torch's order and ``generator=``."""

_LIBRARY = torch.library.Library("funcnet", "DEF")
_LIBRARY.define(
    "draw(Tensor key, int salt, SymInt[] size, SymInt[] stride, str kind, float[] numbers, "
    "ScalarType dtype, Device device) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)

_local = threading.local()


def _draw(
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
    return FILL[kind](out, *numbers, generator=seeded(key, salt, device))


def seeded(key: Tensor, salt: int, device: torch.device) -> torch.Generator:
    """The generator of a Key at a place; this thread's only one for the device, so it is good until the next draw."""
    generator = _generator(device)
    # The CPU generator looks at 32 bits of its seed only: two draws in four billion share their numbers.
    return generator.manual_seed(mix_int(int(key.item()) ^ salt) & 0x7FFF_FFFF_FFFF_FFFF)


def _generator(device: torch.device) -> torch.Generator:
    # One per thread and device, reseeded for each draw: making a generator costs more than a small mask.
    generators: dict[torch.device, torch.Generator] = _local.__dict__.setdefault("generators", {})
    if device not in generators:
        generators[device] = torch.Generator(device)
    return generators[device]


def _layout_of_draw(
    key: Tensor, salt: int, size: Any, stride: Any, kind: str, numbers: Any, dtype: Any, device: Any
) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device=device)


def _draw_for_each_key(info: Any, in_dims: Any, key: Tensor, *rest: Any) -> tuple[Tensor, int]:
    keys = key.movedim(in_dims[0], 0)
    return torch.stack([draw(one, *rest) for one in keys.unbind(0)]), 0


_LIBRARY.impl("draw", _draw, "CompositeExplicitAutograd")
torch.library.register_fake("funcnet::draw", _layout_of_draw, lib=_LIBRARY)
torch.library.register_vmap("funcnet::draw", _draw_for_each_key, lib=_LIBRARY)

draw = torch.ops.funcnet.draw.default
"""``draw(key, salt, size, stride, kind, numbers, dtype, device)``: the same arguments give the same tensor."""

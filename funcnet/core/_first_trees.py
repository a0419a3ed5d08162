"""The first params and buffers of a net, and the net that its lazy layers make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from funcnet._errors import InitError
from funcnet._typing import Tree
from funcnet.core._init_context import Device, InitContext
from funcnet.core._lazy import SHOW_INPUTS, Lazy, find_concrete_nets
from funcnet.core._net import Net
from funcnet.random.internals import RngArgument, as_rng
from funcnet.tree import unflatten


def init_net_and_trees(
    net: Net, rng: RngArgument, example_inputs: Any, device: Device, dtype: torch.dtype | None
) -> tuple[Net, Tree, Tree]:
    """The concrete net and its first params and buffers; the arguments are those of ``Net.init``."""
    source = as_rng(rng)
    if source is None:
        raise InitError("init needs rng: an int seed (0) or a Key (funcnet.random.key(0)).")
    concrete_nets: Mapping[str, Net] = {}
    if example_inputs is not None:
        concrete_nets = find_concrete_nets(net, example_inputs, dtype)
    elif lazy := [
        repr(path) if path else type(child).__name__ for path, child in net.named_nets() if isinstance(child, Lazy)
    ]:
        raise InitError(f"{', '.join(lazy)} {'has' if len(lazy) == 1 else 'have'} no shape yet. {SHOW_INPUTS}")
    result = net.replaced(concrete_nets)
    context = InitContext(source, device, dtype, result._all_aliases)
    values = dict(context.init_net(net, ""))
    for path, concrete_net in concrete_nets.items():  # drawn last, as by lazy modules, which wait for a first call
        values.update(context.init_net(concrete_net, path))
    entries = list(result.entries())
    params = unflatten({entry.path: values[entry.path] for entry in entries if entry.kind == "params"})
    buffers = unflatten({entry.path: values[entry.path] for entry in entries if entry.kind == "buffers"})
    return result, params, buffers

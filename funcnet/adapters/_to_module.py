"""Net and trees -> nn.Module made of real torch.nn children."""

from __future__ import annotations

import torch
from torch import nn

from funcnet._typing import TreeLike
from funcnet.core import Buffer, Net, Param
from funcnet.core.internals import find_misfits, misfit_error
from funcnet.tree import get, join


def to_module(net: Net, params: TreeLike, buffers: TreeLike | None = None) -> nn.Module:
    """The equivalent ``nn.Module``: stock layers as themselves, a composed net as a module with the same body.

    The module has its own copy of every tensor, tied tensors are one Parameter, what ``net.frozen`` names does not
    require grad, and, as every new module, it is in training mode. Keys, order and
    ``repr`` are those of the module the net came from.

    Args:
        net: the net.
        params, buffers: nested dicts that fit it.

    Raises:
        TreeError: if they do not; lists every misfit.
        TypeError: if ``net`` is no net.

    >>> from funcnet import Linear, ReLU, Sequential
    >>> net = Sequential(Linear(2, 3), ReLU())
    >>> to_module(net, *net.init(0))
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): ReLU()
    )
    """
    if not isinstance(net, Net):
        raise TypeError(f"to_module takes (net, params, buffers), got {type(net).__name__} for the net.")
    buffers = {} if buffers is None else buffers
    lines = find_misfits(net, params, buffers)
    if lines:
        raise misfit_error(net, lines)
    module = net.twin_module()
    aliases, frozen = net.aliases, set(net.frozen)
    owned: dict[str, nn.Parameter | torch.Tensor] = {}
    for path, below in net.named_nets():
        holder = module.get_submodule(path)
        for name, spec in below._own_entries.items():
            key = join(path, name)
            owner = aliases.get(key, key)
            if owner not in owned:
                value = get(params if isinstance(spec, Param) else buffers, owner).detach().clone()
                owned[owner] = (
                    value
                    if isinstance(spec, Buffer)
                    else nn.Parameter(value, owner not in frozen and (value.is_floating_point() or value.is_complex()))
                )
            if isinstance(spec, Param):
                setattr(holder, name, owned[owner])  # recurrent modules keep a list of their weights beside
            else:
                holder._buffers[name] = owned[owner]
    return module

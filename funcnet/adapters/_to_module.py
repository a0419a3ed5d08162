"""From a net and its trees to an nn.Module made of real torch.nn children."""

from __future__ import annotations

import torch
from torch import nn

from funcnet._tensors import is_inexact
from funcnet._typing import TreeLike
from funcnet.adapters._from_module import TIE_OWNERS
from funcnet.core import Buffer, Net, Param
from funcnet.core.internals import find_misfits, misfit_error
from funcnet.tree import get, join


def to_module(net: Net, params: TreeLike, buffers: TreeLike | None = None) -> nn.Module:
    """The equivalent ``nn.Module``: stock layers as themselves, a composed net as a module with the same body.

    The module has its own copy of every tensor, tied tensors are one Parameter, what ``net.frozen`` names does not
    require grad, and, as every new module, it is in training mode. Keys, order and ``repr`` are those of the module
    the net came from.

    Args:
        net: the net.
        params, buffers: nested dicts that fit it.

    Raises:
        TreeError: if they do not; lists every misfit.
        TypeError: if ``net`` is not a net.

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
    return build_module(net, params, buffers, copy=True)


def build_module(net: Net, params: TreeLike, buffers: TreeLike, *, copy: bool) -> nn.Module:
    """The module of a net and of trees that fit it, which has copies of the tensors or shares their memory."""
    module = net.twin_module()
    aliases, frozen = net.aliases, set(net.frozen)
    tensors: dict[str, nn.Parameter | torch.Tensor] = {}
    for path, part in net.named_nets():
        submodule = module.get_submodule(path)
        for name, spec in part._own_entries.items():
            key = join(path, name)
            owner = aliases.get(key, key)
            if owner not in tensors:
                value = get(params if isinstance(spec, Param) else buffers, owner).detach()
                value = value.clone() if copy else value
                tensors[owner] = (
                    value
                    if isinstance(spec, Buffer)
                    else nn.Parameter(value, owner not in frozen and is_inexact(value))
                )
            if isinstance(spec, Param):
                setattr(submodule, name, tensors[owner])  # recurrent modules also keep a list of their weights
            else:
                submodule._buffers[name] = tensors[owner]
    _share_modules(module, net)
    if aliases:
        setattr(module, TIE_OWNERS, tuple(aliases.values()))
    return module


def _share_modules(module: nn.Module, net: Net) -> None:
    """Put one module at several paths where the module that the net came from had one, and the net still does."""
    nets, aliases = dict(net.named_nets()), net.aliases

    def tensors_at(path: str) -> list[str]:
        keys = [join(path, key) for key in nets[path]._all_entries]
        return [aliases.get(key, key) for key in keys]

    for outer, part in net.named_nets():
        for inner_path, inner_first in part._edits.shared:
            path, first = join(outer, inner_path), join(outer, inner_first)
            if {path, first} <= set(nets) and nets[path] == nets[first] and tensors_at(path) == tensors_at(first):
                parent, _, name = path.rpartition(".")
                module.get_submodule(parent)._modules[name] = module.get_submodule(first)

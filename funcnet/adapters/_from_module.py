"""nn.Module -> net and trees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError
from funcnet._typing import Flat, Tree
from funcnet.adapters._wrapped import UNKNOWN, Wrapped
from funcnet.combinators import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from funcnet.core import Body, Function, FunctionModule, Net, Param
from funcnet.core._entries import exact_dtype
from funcnet.layers import COUNTERPARTS
from funcnet.parametrize._net import ParametrizationList, parametrized
from funcnet.parametrize._stock import STOCK
from funcnet.parametrize._twins import parametrizations_of, without_parametrizations
from funcnet.tree import unflatten

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def from_module(module: nn.Module, *, copy: bool = True) -> tuple[Net, Tree, Tree]:
    """The net that computes what a module computes, and its params and buffers.

    Stock layers and containers become the nets of the same name. A module with a forward of its own becomes
    ``Wrapped``, which runs that forward on a private copy. The module itself is never called and never written to.

    Args:
        module: any ``nn.Module`` with materialised tensors.
        copy: when false, the trees share memory with the module, and training it in place changes them.

    Returns:
        ``(net, params, buffers)``; tied tensors are one entry, listed in ``net.aliases``.

    Raises:
        ConversionError: if ``module`` is not a module, or cannot be copied.

    >>> net, params, buffers = from_module(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    >>> net, list(params)
    (Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): ReLU()
    ), ['0'])
    """
    if not isinstance(module, nn.Module):
        hint = " Instantiate it first." if isinstance(module, type) else ""
        raise ConversionError(f"from_module takes an nn.Module, not {module!r:.80}.{hint}")
    if isinstance(module, torch.jit.ScriptModule):
        raise ConversionError(
            "from_module runs Python code, and a ScriptModule has none. Convert the module it was made of."
        )
    named = (*module.named_parameters(), *module.named_buffers())
    lazy = [name for name, tensor in named if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise ConversionError(
            f"{', '.join(lazy)} have no shape yet. Call the module once on example inputs, then convert; or build the "
            f"net of funcnet's own lazy layers: net.init(rng, example_inputs=...)."
        )
    net = convert(module)
    params, owners = _collect(list(module.named_parameters(remove_duplicate=False)), copy)
    buffers, buffer_owners = _collect(list(module.named_buffers(remove_duplicate=False)), copy)
    aliases = {**owners, **buffer_owners}
    if aliases:
        net = net.tie(aliases)
    return net, unflatten(params), unflatten(buffers)


def _collect(named: list[tuple[str, Tensor]], copy: bool) -> tuple[Flat, dict[str, str]]:
    """Tensors by path, each once, and the further paths of those that have several."""
    first: dict[int, str] = {}
    flat: Flat = {}
    aliases: dict[str, str] = {}
    for path, tensor in named:
        if id(tensor) in first:
            aliases[path] = first[id(tensor)]
        else:
            first[id(tensor)] = path
            flat[path] = tensor.detach().clone() if copy else tensor.detach()
    return flat, aliases


def convert(module: nn.Module) -> Net:
    """The net for a module: native where that is exact, else ``Wrapped``."""
    lists = parametrizations_of(module)
    plain = without_parametrizations(module) if lists else module
    net = None if _is_altered(plain) else _native(plain)
    if net is not None and lists:
        net = parametrized(net, {name: convert(computed) for name, computed in lists.items()})
    return net if net is not None and _declares_the_same(net, module) else Wrapped.of(module, convert)


def _native(module: nn.Module) -> Net | None:
    kind = type(module)
    if kind in STOCK:
        return STOCK[kind].from_module(module)
    if kind in (nn.ParameterList, nn.ParameterDict):
        return _parameters(module)
    if None in module._modules.values() or any(name.startswith("_") or name == "rng" for name in module._modules):
        return None
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.utils.parametrize.ParametrizationList)
    if kind not in COUNTERPARTS and kind not in containers and not isinstance(module, (FunctionModule, Body)):
        return None  # its children are converted elsewhere
    children = {name: convert(child) for name, child in module._modules.items() if child is not None}
    if kind in COUNTERPARTS:
        try:
            return COUNTERPARTS[kind].from_module(module, children)
        except (AttributeError, LookupError, TypeError, ValueError):
            return None  # changed since it was built, into what no arguments make
    if kind is nn.Sequential:
        return Sequential(children)
    if kind is nn.ModuleList:
        return ModuleList(children.values())
    if kind is nn.ModuleDict:
        return ModuleDict(children)
    if kind is nn.utils.parametrize.ParametrizationList:
        return ParametrizationList.of(module, children.values())
    if isinstance(module, FunctionModule):
        return Function(module.function)
    assert isinstance(module, Body)
    net = module._funcnet_net
    return net if net._children == children else None


def _parameters(module: Any) -> Net | None:
    """The net for a container of parameters that holds nothing else."""
    names = list(module._keys) if isinstance(module, nn.ParameterDict) else [str(index) for index in range(len(module))]
    if names != list(module._parameters) or None in module._parameters.values() or module._modules:
        return None
    known = getattr(module, "_funcnet_net", None)  # of to_module, with the first values
    if known is not None and _declares_the_same(known, module):
        return known
    params = {
        name: Param(tuple(tensor.shape), UNKNOWN, exact_dtype(tensor)) for name, tensor in module._parameters.items()
    }
    return ParameterDict(params.items()) if isinstance(module, nn.ParameterDict) else ParameterList(params.values())


def _is_altered(module: nn.Module) -> bool:
    """Whether an instance does more than its class says: hooks, or a forward of its own."""
    return "forward" in module.__dict__ or any(getattr(module, hooks, None) for hooks in _HOOKS)


def _declares_the_same(net: Net, module: nn.Module) -> bool:
    """Whether the net's own entries are the module's own tensors: names, shapes, and whether they are saved."""
    held: dict[str, Any] = {
        name: (tuple(tensor.shape), False) for name, tensor in module._parameters.items() if tensor is not None
    }
    for name, tensor in module._buffers.items():
        if tensor is not None:
            held[name] = (tuple(tensor.shape), name not in module._non_persistent_buffers_set)
    declared = {name: (spec.shape, getattr(spec, "persistent", False)) for name, spec in net._own_entries.items()}
    return held == declared

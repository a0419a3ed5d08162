"""Parametrized modules, put together and looked at without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import ParametrizationList

from funcnet._torch import WeightNormModule, parametrized_class, parametrized_property
from funcnet.core import Buffer, Param


def list_module(modules: Sequence[nn.Module], originals: Sequence[tuple[str, Param | Buffer]], unsafe: bool) -> Any:
    """A torch ParametrizationList over tensors of no content; its own constructor would compute them."""
    made = ParametrizationList.__new__(ParametrizationList)
    nn.ModuleList.__init__(made, modules)
    made.unsafe = unsafe
    made.is_tensor = originals[0][0] == "original"
    made.ntensors = len(originals)
    for name, spec in originals:
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        if isinstance(spec, Param):
            made.register_parameter(name, nn.Parameter(tensor))
        else:
            made.register_buffer(name, tensor)
    return made


def attach(module: Any, name: str, computed: Any) -> None:
    """Make a tensor of a module the one that a ParametrizationList computes."""
    if type(computed[0]) is WeightNormModule:
        dim: Any = computed[0].dim
        weight_norm(module, name, dim)  # which also lets it load what torch's older weight_norm saved
        module.parametrizations[name] = computed
        return
    delattr(module, name)
    if "parametrizations" not in module._modules:
        parametrized_class(module)
        module.parametrizations = nn.ModuleDict()
    parametrized_property(module, name)
    module.parametrizations[name] = computed


def parametrizations_of(module: nn.Module) -> dict[str, Any]:
    """The ParametrizationLists of a module by the names of the tensors; none if it is not parametrized."""
    found = module._modules.get("parametrizations")
    if type(found) is not nn.ModuleDict or not type(module).__name__.startswith("Parametrized"):
        return {}
    named = dict(found.items())
    computed = (isinstance(vars(type(module)).get(name), property) for name in named)
    plain = (type(one) is ParametrizationList for one in named.values())
    return named if all(computed) and all(plain) else {}


def without_parametrizations(module: nn.Module) -> nn.Module:
    """What a parametrized module was before, with tensors of no content for those computed; the rest is shared."""
    lists = parametrizations_of(module)
    kind: Any = type(module).__bases__[0]
    before: nn.Module = kind.__new__(kind)
    before.__dict__.update(module.__dict__)
    before.__dict__.update(
        _parameters=dict(module._parameters),
        _buffers=dict(module._buffers),
        _modules={name: child for name, child in module._modules.items() if name != "parametrizations"},
        _load_state_dict_pre_hooks={
            key: hook
            for key, hook in module._load_state_dict_pre_hooks.items()
            if not getattr(hook, "__qualname__", "").startswith(f"{weight_norm.__name__}.")
        },
    )
    for name, computed in lists.items():
        original = [*computed._parameters.values(), *computed._buffers.values()][-1]
        empty = torch.empty_like(original, device="meta")
        if computed._parameters:
            before._parameters[name] = nn.Parameter(empty, original.requires_grad)
        else:
            before._buffers[name] = empty
    return before

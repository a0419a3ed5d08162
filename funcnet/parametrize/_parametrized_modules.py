"""Parametrized modules of torch: how to build and inspect them without computing a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import ParametrizationList

from funcnet._torch import WeightNormModule, inject_parametrized_class, inject_parametrized_property
from funcnet.core import Buffer, Param
from funcnet.core.internals import make_empty_tensor


def build_list_module(
    modules: Sequence[nn.Module], originals: Sequence[tuple[str, Param | Buffer]], unsafe: bool
) -> ParametrizationList:
    """A ParametrizationList over uninitialised tensors. The constructor of the class would compute the tensor."""
    module = ParametrizationList.__new__(ParametrizationList)
    nn.ModuleList.__init__(module, modules)
    module.unsafe = unsafe
    module.is_tensor = originals[0][0] == "original"
    module.ntensors = len(originals)
    for name, spec in originals:
        if isinstance(spec, Param):
            setattr(module, name, make_empty_tensor(spec))
        else:
            module.register_buffer(name, make_empty_tensor(spec))
    return module


def attach_computed_tensor(module: Any, name: str, computed: Any) -> None:
    """Replace a tensor of a module by the one that a ParametrizationList computes."""
    if type(computed[0]) is WeightNormModule:
        dim: Any = computed[0].dim
        weight_norm(module, name, dim)  # it also adds a hook that loads checkpoints of torch's older weight_norm
        module.parametrizations[name] = computed
        return
    delattr(module, name)
    if "parametrizations" not in module._modules:
        inject_parametrized_class(module)
        module.parametrizations = nn.ModuleDict()
    inject_parametrized_property(module, name)
    module.parametrizations[name] = computed


def parametrization_lists_of(module: nn.Module) -> dict[str, ParametrizationList]:
    """The ParametrizationLists of a module by the names of the computed tensors; empty if it is not parametrized."""
    lists = module._modules.get("parametrizations")
    if type(lists) is not nn.ModuleDict or not type(module).__name__.startswith("Parametrized"):
        return {}
    properties = vars(type(module))
    result: dict[str, ParametrizationList] = {}
    for name, computed in lists.items():
        if type(computed) is not ParametrizationList or not isinstance(properties.get(name), property):
            return {}
        result[name] = computed
    return result


def module_without_parametrizations(module: nn.Module) -> nn.Module:
    """The module as it was before it was parametrized.

    Its computed tensors are on the meta device; it shares all other tensors and children with the given module.
    """
    lists = parametrization_lists_of(module)
    kind: Any = type(module).__bases__[0]
    plain: nn.Module = kind.__new__(kind)
    plain.__dict__.update(module.__dict__)
    plain.__dict__.update(
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
        original: Any = [*computed._parameters.values(), *computed._buffers.values()][-1]
        empty = torch.empty_like(original, device="meta")
        if computed._parameters:
            plain._parameters[name] = nn.Parameter(empty, original.requires_grad)
        else:
            plain._buffers[name] = empty
    return plain

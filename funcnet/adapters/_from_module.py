"""From an nn.Module to a net and its trees."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._torch import live_load_hooks, module_inside_wrapper, shards_tensors
from funcnet._typing import Flat, Tree
from funcnet.adapters._lazy_modules import copy_with_shapes, lazy_error, list_lazy_names
from funcnet.adapters._shared_memory import refuse_shared_memory
from funcnet.combinators import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from funcnet.core import Body, Function, FunctionModule, Net, Param
from funcnet.core.internals import adopt_module_tensors, dtype_to_declare
from funcnet.foreign import Wrapped
from funcnet.foreign.internals import (
    UNKNOWN_VALUE,
    check_outside_parameters,
    named_modules,
    named_tensors,
    unwrap_module,
)
from funcnet.layers import COUNTERPARTS, Layer
from funcnet.low_rank.internals import LoraModule, lora_net_of_module, module_without_lora
from funcnet.parametrize.internals import (
    STOCK_PARAMETRIZATIONS,
    ParametrizationList,
    module_without_parametrizations,
    parametrization_lists_of,
    parametrize_net,
)
from funcnet.tree import join, unflatten

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)

TIE_OWNERS = "_funcnet_owners"
"""The attribute of a module in which ``to_module`` notes the paths that tied tensors go by in its trees."""


def from_module(module: nn.Module, *, example_inputs: object = None, copy: bool = True) -> tuple[Net, Tree, Tree]:
    """The net that computes what a module computes, and its params and buffers.

    Stock layers and containers become the nets of the same name. A module with a forward of its own becomes
    ``Wrapped``, which runs that forward on a private copy. The module itself is never called and never written to.
    Parameters that do not require grad are listed in ``net.frozen``; :func:`funcnet.train_flags` gives the ``train=``
    of parts in different modes. What torch.compile, DataParallel or checkpoint_wrapper were put around is converted
    without them. Tensors that the module keeps of earlier calls are constants of the net, and lose their graph. Buffers
    and attributes that share memory each get their own, with a warning. A warning also names tensors that require grad
    and that the code finds elsewhere than in the parameters: globals, classes, defaults, lists that register nothing.

    Args:
        module: any ``nn.Module``.
        example_inputs: for a module with lazy parts: what to call a copy of it with, so that they get their shapes; a
            tuple of inputs, or a single one.
        copy: when false, the trees share memory with the module, and training it in place changes them.

    Returns:
        ``(net, params, buffers)``; tied tensors are one entry, listed in ``net.aliases``.

    Raises:
        ConversionError: if ``module`` is not a module, cannot be copied, has lazy parts and no inputs for them, has
            backward hooks, of which a pure function knows nothing, has parameters whose memory another tensor shares
            without being the same object, or has code that reads its parameters as globals or attributes of classes.

    >>> net, params, buffers = from_module(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    >>> net, list(params)
    (Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): ReLU()
    ), ['0'])
    """
    if not isinstance(module, nn.Module):
        if isinstance(module, Net):
            raise ConversionError(
                f"{module.title()} is a net already: net.init(0) gives its params and buffers, and "
                f"funcnet.to_module(net, params, buffers) a module."
            )
        hint = " Instantiate it first." if isinstance(module, type) else ""
        raise ConversionError(f"from_module takes an nn.Module, not {module!r:.80}.{hint}")
    _refuse_wrappers(module)
    _refuse_sharded_modules(module)
    module = unwrap_module(module)
    scripted = [
        path or "the module itself"
        for path, submodule in module.named_modules()
        if isinstance(submodule, torch.jit.ScriptModule)
    ]
    if scripted:
        raise ConversionError(
            f"from_module runs Python code, and a ScriptModule has none{bullet_list(_topmost_paths(scripted))}\n"
            f"Convert the module it was made of; functions that are scripted may stay."
        )
    _refuse_backward_hooks(module)
    if list_lazy_names(module):
        if example_inputs is None:
            raise lazy_error(module)
        module = copy_with_shapes(module, example_inputs)
    refuse_shared_memory(module)
    check_outside_parameters(module, stacklevel=2)
    net = convert_module(module, {})
    named_params = list(named_tensors(module, "_parameters"))
    owners = set(getattr(module, TIE_OWNERS, ()))
    params, param_owners = _collect_tensors(named_params, owners, copy)
    buffers, buffer_owners = _collect_tensors(list(named_tensors(module, "_buffers")), owners, copy)
    aliases = {**param_owners, **buffer_owners}
    if aliases:
        net = net.tie(aliases)
    frozen = [path for path, param in named_params if path in params and not param.requires_grad and is_inexact(param)]
    if frozen:
        net = net.freeze(set(frozen).__contains__)
    if shared := _find_shared_modules(module):
        net = net._with_edits(replace(net._edits, shared=shared))
    return net, unflatten(params), unflatten(buffers)


def _topmost_paths(paths: list[str]) -> list[str]:
    """Those paths that lie below none of the others."""
    return [path for path in paths if not any(path.startswith(f"{parent}.") for parent in paths)]


def _refuse_sharded_modules(module: nn.Module) -> None:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return
    paths = [
        path or "the module itself"
        for path, submodule in module.named_modules()
        if isinstance(submodule, fsdp.FSDPModule)
    ]
    if paths:
        raise ConversionError(
            f"fully_shard (FSDP2) gave these parts hooks that gather their params, and a private copy cannot have them:"
            f"{bullet_list(_topmost_paths(paths))}\n"
            f"Convert the module before it is sharded, net, _, _ = funcnet.from_module(module), and take the params, "
            f"placed as FSDP2 has them, from the sharded one: funcnet.from_state_dict(net, sharded.state_dict()). "
            f"funcnet.distributed.value_and_grad trains them."
        )


def _refuse_wrappers(module: nn.Module) -> None:
    """Refuse wrappers that are more than what they wrap."""
    submodules = list(module.named_modules())
    if sharded := [path or "the module itself" for path, submodule in submodules if shards_tensors(submodule)]:
        raise ConversionError(
            f"FullyShardedDataParallel holds tensors in flat shards{bullet_list(_topmost_paths(sharded))}\n"
            f"Convert the module before it is sharded, and read its tensors by funcnet.from_state_dict(net, "
            f"fsdp.state_dict())."
        )
    lines = [
        f"{join(path, attribute)}: {_function_name(hook)}"
        for path, submodule in submodules
        if module_inside_wrapper(submodule) is not None
        for attribute in ("_forward_hooks", "_forward_pre_hooks")
        for hook in getattr(submodule, attribute).values()
    ]
    if lines:
        raise ConversionError(
            f"hooks are on a wrapper, which is left out{bullet_list(lines)}\nRegister them on the module inside of it."
        )


def _refuse_backward_hooks(module: nn.Module) -> None:
    lines = []
    for path, submodule in named_modules(module):
        for attribute in ("_backward_hooks", "_backward_pre_hooks"):
            hooks = getattr(submodule, attribute)
            lines += [f"{join(path, attribute)}: {_function_name(hook)}" for hook in hooks.values()]
        for name, param in submodule._parameters.items():
            for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
                hooks = getattr(param, attribute, None) or {}
                lines += [f"{join(path, name)}.{attribute}: {_function_name(hook)}" for hook in hooks.values()]
    if lines:
        raise ConversionError(
            f"{type(module).__name__} has backward hooks, which would not run: gradients of a pure function are "
            f"values, not events on a module{bullet_list(dict.fromkeys(lines))}\n"
            f"Remove them (handle.remove()) and work on the gradients that funcnet.value_and_grad returns."
        )


def _function_name(function: object) -> str:
    return getattr(function, "__qualname__", repr(function))


def list_params(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parameters of a module by their paths in the params of ``from_module``, and what other names they have.

    Returns:
        The parameters, each once, in the order of ``module.parameters()``; and every name of one, with wrappers or
        without, -> its path. The first name of a path is that of ``named_parameters()`` without wrappers.
    """
    outer = list(module.named_parameters(remove_duplicate=False))
    module = unwrap_module(module)
    named = list(named_tensors(module, "_parameters"))
    path_by_name = _find_owner_paths(named, set(getattr(module, TIE_OWNERS, ())))
    params = {path_by_name[name]: param for name, param in named}
    path_by_id = {id(param): path for path, param in params.items()}
    return params, path_by_name | {name: path_by_id[id(param)] for name, param in outer if id(param) in path_by_id}


def _find_owner_paths(named: Iterable[tuple[str, Tensor]], owners: Collection[str]) -> dict[str, str]:
    """For each path the one that its tensor goes by: one of the owners, else the first path of the tensor."""
    paths_by_id: dict[int, list[str]] = {}
    for path, tensor in named:
        paths_by_id.setdefault(id(tensor), []).append(path)
    owner_by_path: dict[str, str] = {}
    for paths in paths_by_id.values():
        owner_by_path |= dict.fromkeys(paths, next((path for path in paths if path in owners), paths[0]))
    return owner_by_path


def _collect_tensors(
    named: Collection[tuple[str, Tensor]], owners: Collection[str], copy: bool
) -> tuple[Flat, dict[str, str]]:
    """Tensors by path, each once, and the further paths of those that have several.

    Args:
        named: paths and tensors of a module.
        owners: the paths that tied tensors go by; those that are tied at none of these go by their first path.
        copy: whether the tensors are copied.
    """
    owner_by_path = _find_owner_paths(named, owners)
    flat = {
        path: tensor.detach().clone() if copy else tensor.detach()
        for path, tensor in named
        if owner_by_path[path] == path
    }
    return flat, {path: owner_by_path[path] for path, _ in named if owner_by_path[path] != path}


def _find_shared_modules(module: nn.Module) -> tuple[tuple[str, str], ...]:
    """The further paths of modules that are at several, with their first paths; what is below them is left out."""
    first_path_by_id: dict[int, str] = {}
    shared: dict[str, str] = {}
    for path, submodule in named_modules(module):
        first_path = first_path_by_id.setdefault(id(submodule), path)
        if first_path != path:
            shared[path] = first_path
    return tuple((path, first) for path, first in shared.items() if path.rpartition(".")[0] not in shared)


def convert_module(module: nn.Module, nets: dict[int, Net]) -> Net:
    """The net for a module: one of funcnet's own where that is exact, else ``Wrapped``.

    Args:
        module: what to convert.
        nets: the nets of modules that are converted already, by the id of the module.
    """
    module = unwrap_module(module)
    if id(module) not in nets:
        nets[id(module)] = _convert_new_module(module, nets)
    return nets[id(module)]


def _convert_new_module(module: nn.Module, nets: dict[int, Net]) -> Net:
    lists = parametrization_lists_of(module)
    base = module_without_parametrizations(module) if lists else module
    net = None if _is_altered(base) else _native_net(base, nets)
    if net is not None and lists:
        net = parametrize_net(net, {name: convert_module(computed, nets) for name, computed in lists.items()})
    net = None if net is None else adopt_module_tensors(net, module)
    return Wrapped.of(module, lambda child: convert_module(child, nets)) if net is None else net


def _native_net(module: nn.Module, nets: dict[int, Net]) -> Net | None:
    """The net of funcnet's own that computes what a module computes; None if there is none."""
    kind = type(module)
    if kind in STOCK_PARAMETRIZATIONS:
        return STOCK_PARAMETRIZATIONS[kind].from_module(module)
    if isinstance(module, (nn.ParameterList, nn.ParameterDict)) and kind in (nn.ParameterList, nn.ParameterDict):
        return _parameter_container(module)
    if None in module._modules.values() or any(name.startswith("_") or name == "rng" for name in module._modules):
        return None
    if isinstance(module, LoraModule):
        base = _native_net(module_without_lora(module), nets)
        children = {name: convert_module(child, nets) for name, child in module._modules.items() if child is not None}
        return None if base is None else lora_net_of_module(module, base, children)
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.utils.parametrize.ParametrizationList)
    if kind not in COUNTERPARTS and kind not in containers and not isinstance(module, (FunctionModule, Body)):
        return None  # its children are converted elsewhere
    children = {name: convert_module(child, nets) for name, child in module._modules.items() if child is not None}
    if kind in COUNTERPARTS:
        try:
            net = COUNTERPARTS[kind].from_module(module, children)
            is_stale = isinstance(net, Layer) and bool(net.list_stale_attributes(module))
        except (AttributeError, LookupError, TypeError, ValueError):
            return None  # it was changed since it was built, into a state that no arguments make
        return None if is_stale else net
    if kind is nn.Sequential:
        return Sequential(children)
    if kind is nn.ModuleList:
        return ModuleList(children.values())
    if kind is nn.ModuleDict:
        return ModuleDict(children)
    if kind is nn.utils.parametrize.ParametrizationList:
        return ParametrizationList.from_list_module(module, children.values())
    if isinstance(module, FunctionModule):
        return Function(module.function)
    assert isinstance(module, Body)
    net = module._funcnet_net
    return net if net._children == children else None


def _parameter_container(module: nn.ParameterList | nn.ParameterDict) -> Net | None:
    """The net for a container of parameters that holds nothing else; None if it holds more."""
    names = list(module._keys) if isinstance(module, nn.ParameterDict) else [str(index) for index in range(len(module))]
    if names != list(module._parameters) or None in module._parameters.values() or module._modules:
        return None
    original_net = getattr(module, "_funcnet_net", None)  # to_module left it there; it has the first values
    if original_net is not None and adopt_module_tensors(original_net, module) is not None:
        return original_net
    params = {
        name: Param(tuple(tensor.shape), UNKNOWN_VALUE, dtype_to_declare(tensor))
        for name, tensor in module._parameters.items()
        if tensor is not None
    }
    return ParameterDict(params.items()) if isinstance(module, nn.ParameterDict) else ParameterList(params.values())


def _is_altered(module: nn.Module) -> bool:
    """Whether an instance does more than its class says: hooks, or a forward of its own."""
    hooks = (getattr(module, attribute, None) for attribute in _HOOKS)
    return "forward" in module.__dict__ or any(hooks) or bool(live_load_hooks(module))

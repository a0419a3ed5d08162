"""The names that the library peft gives to the params of a model with LoRA, and the way back from them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._typing import Flat, Tree, TreeLike
from funcnet.core import Net, Param
from funcnet.core.internals import describe_misfits
from funcnet.low_rank._lora_net import list_factors, lora_modules
from funcnet.tree import flatten, join, unflatten

_PREFIX = "base_model.model."
_FACTOR = r"lora_(?:embedding_)?[AB]"


def to_peft_state_dict(net: Net, params: TreeLike, adapter_name: str | None = None) -> Flat:
    """What peft saves of a model with LoRA, under the names of its ``adapter_model.safetensors``.

    These are the adapters, and whatever else is not frozen in ``net``, say a new head. With an ``adapter_name`` the
    names are those in the ``state_dict`` of a ``PeftModel`` that has this adapter, and all params are in it.

    Args:
        net: a net with LoRA, whose paths are those of a module.
        params: its params; the adapters alone will do, where the rest is not asked for.
        adapter_name: the name of the adapter in a ``PeftModel``, there ``"default"``.

    Returns:
        Names and tensors, which are shared. ``checkpoint.save`` writes them to a file; the ``LoraConfig`` beside it
        has ``r``, ``lora_alpha`` and ``target_modules``.

    >>> import funcnet as fn
    >>> net, adapters = fn.lora(fn.Sequential(fn.Linear(3, 2)), "0", rank=1, rng=0)
    >>> list(to_peft_state_dict(net, adapters))
    ['base_model.model.0.lora_A.weight', 'base_model.model.0.lora_B.weight']
    """
    flat, aliases, frozen, layers = flatten(params), net.aliases, set(net.frozen), lora_modules(net)
    result: Flat = {}
    for path, spec in net._all_entries.items():
        owner = aliases.get(path, path)
        if not isinstance(spec, Param) or owner not in flat or (adapter_name is None and owner in frozen):
            continue
        result[_PREFIX + _name_in_model(path, layers, adapter_name)] = flat[owner]
    return result


def from_peft_state_dict(
    net: Net, state_dict: Mapping[str, Tensor], adapter_name: str = "default", *, copy: bool = True
) -> Tree:
    """The adapters of a net with LoRA, from what peft saved of a model.

    Args:
        net: says which adapters there are, and how large.
        state_dict: the content of ``adapter_model.safetensors``, or the ``state_dict`` of a ``PeftModel``. What else it
            has that is not frozen in ``net``, say a new head, comes along; what is frozen is left out.
        adapter_name: the adapter to take out of the ``state_dict`` of a ``PeftModel``.
        copy: when false, the tree shares memory with ``state_dict``.

    Returns:
        A tree to combine with the params of the net that has no LoRA.

    Raises:
        TreeError: lists every missing, extra and mis-shaped entry.

    >>> import funcnet as fn
    >>> net, adapters = fn.lora(fn.Sequential(fn.Linear(3, 2)), "0", rank=1, rng=0)
    >>> back = from_peft_state_dict(net, to_peft_state_dict(net, adapters))
    >>> back["0"].keys() == adapters["0"].keys()
    True
    """
    aliases, entries, frozen, layers = net.aliases, net._all_entries, set(net.frozen), lora_modules(net)
    left_out = {
        path for path, spec in entries.items() if not isinstance(spec, Param) or aliases.get(path, path) in frozen
    }
    given: Flat = {}
    for name, tensor in state_dict.items():
        path = _path_of(name, adapter_name)
        if path is not None and path not in left_out:
            given[aliases.get(path, path)] = tensor
    factors = {join(path, name) for path, part in net.named_nets() if path in layers for name in list_factors(part)}
    specs = {
        path: spec
        for path, spec in entries.items()
        if path not in aliases and isinstance(spec, Param) and (path in factors or path in given)
    }
    if problems := describe_misfits(specs, given):
        raise TreeError(f"the state_dict of peft does not fit the adapters of {net.title()}:{bullet_list(problems)}")
    return unflatten({path: given[path].clone() if copy else given[path] for path in specs})


def _name_in_model(path: str, layers: Mapping[str, object], adapter_name: str | None) -> str:
    """The name of a param in a model of peft, without the prefix."""
    parent, _, name = path.rpartition(".")
    match = re.fullmatch(rf"((?:.*\.)?{_FACTOR})(\.weight)?", path)
    if match:
        return path if adapter_name is None else f"{match[1]}.{adapter_name}{match[2] or ''}"
    return join(join(parent, "base_layer"), name) if parent in layers else path


def _path_of(name: str, adapter_name: str) -> str | None:
    """The path of a param that peft gave a name; None for a param of another adapter."""
    path = name.removeprefix(_PREFIX)
    if match := re.fullmatch(rf"((?:.*\.)?{_FACTOR})(?:\.(.+?))??(\.weight)?", path):
        return f"{match[1]}{match[3] or ''}" if match[2] in (None, adapter_name) else None
    path = re.sub(rf"\.modules_to_save\.{re.escape(adapter_name)}(?=\.)", "", path)
    if ".original_module." in path or ".modules_to_save." in path:
        return None  # what a head was before, or that of another adapter
    return re.sub(r"(^|\.)base_layer(?=\.)", "", path).removeprefix(".")

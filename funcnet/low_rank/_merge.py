"""Merging LoRA: every change added to its weight, and subtracted again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from funcnet._errors import ConversionError, TreeError, bullet_list
from funcnet._typing import Tree, TreeLike
from funcnet.core import Net, Param
from funcnet.core.internals import find_misfits, misfit_error, resolve_aliases
from funcnet.foreign import Wrapped
from funcnet.low_rank._lora_module import LoraModule, module_without_lora, weight_change
from funcnet.low_rank._lora_net import Lora, list_factors, lora_modules, reader_of_children
from funcnet.tree import flatten, get, join, unflatten


def merge_lora(net: Net, params: TreeLike) -> tuple[Net, Tree]:
    """The net without LoRA and its params, with every change added to the weight that it is a change of.

    The bits are those of peft's ``merge_and_unload``. Nothing is overwritten: ``params`` still are what they were, so
    going on from them is to unmerge, bit for bit. The net is the one that :func:`lora` was given, with frozen params;
    only where one of two tied weights is adapted, say that of a head, each becomes a weight of its own.

    Args:
        net: a net with LoRA.
        params: its params, adapters included.

    Raises:
        TreeError: if ``params`` do not fit, or there is no LoRA in the net.
        ConversionError: if a convolution with groups is adapted: its change is no kernel of that form.

    >>> import funcnet as fn
    >>> net = fn.Linear(3, 2)
    >>> params, _ = net.init(0)
    >>> adapted, adapters = fn.lora(net, True, rank=1, rng=fn.random.key(0))
    >>> merged_net, merged = merge_lora(adapted, fn.tree.combine(params, adapters))
    >>> merged_net == net, list(merged)
    (True, ['weight', 'bias'])
    """
    full = _checked_params(net, params)
    modules, owners, flat = lora_modules(net), net.aliases, flatten(full)
    for path, change in _weight_changes(modules, full):
        weight = flat[join(path, "weight")]
        flat[join(path, "weight")] = (weight + change).to(weight.dtype)
    layers = {path: layer for path, layer in net.named_nets() if path in modules}
    factors = {path: join(path, list_factors(layer)[0]) for path, layer in layers.items()}
    plain = net.replaced({path: _without_lora(layer) for path, layer in layers.items()})
    plain = _untie_changed(plain, {join(path, "weight"): owners.get(name, name) for path, name in factors.items()})
    entries = {entry.path: flat[entry.path] for entry in plain.entries() if entry.kind == "params"}
    return plain, unflatten(entries)


def unmerge_lora(net: Net, merged: TreeLike, adapters: TreeLike) -> Tree:
    """The params of a net with LoRA from merged ones, for whoever did not keep those from before.

    The changes are subtracted, as by peft's ``unmerge_adapter``: what the merge rounded away does not come back. The
    params that :func:`merge_lora` was given are unmerged to the bit, and free.

    Args:
        net: the net with LoRA.
        merged: params as :func:`merge_lora` returns them.
        adapters: the adapters that were merged.

    Returns:
        Params of ``net``, with the adapters.

    >>> import funcnet as fn
    >>> net = fn.Linear(3, 2)
    >>> adapted, adapters = fn.lora(net, True, rank=1, rng=fn.random.key(0))
    >>> params = fn.tree.combine(net.init(0)[0], adapters)
    >>> back = unmerge_lora(adapted, merge_lora(adapted, params)[1], adapters)
    >>> bool((back["weight"] == params["weight"]).all())  # as the change is zero
    True
    """
    flat = {**flatten(merged), **flatten(adapters)}
    aliases = net.aliases
    params = unflatten({path: tensor for path, tensor in flat.items() if path not in aliases})
    full = _checked_params(net, params)
    flat = flatten(params)
    for path, change in _weight_changes(lora_modules(net), full):
        name = join(path, "weight")
        if name in flat:
            flat[name] = (flat[name] - change).to(flat[name].dtype)
    return unflatten(flat)


def _checked_params(net: Net, params: TreeLike) -> Tree:
    """The params with a tensor at every alias."""
    problems = [line for line in find_misfits(net, params, {}) if "params" in line]
    if problems:
        raise misfit_error(net, problems)
    return resolve_aliases(params, {alias: owner for alias, owner in net.aliases.items() if _is_param(net, alias)})


def _is_param(net: Net, path: str) -> bool:
    return isinstance(net._all_entries[path], Param)


def _weight_changes(modules: Mapping[str, LoraModule], params: TreeLike) -> Iterator[tuple[str, Tensor]]:
    if not modules:
        raise TreeError("the net has no LoRA: fn.lora(net, selector, rng=...) returns one that has.")
    groups = {path: getattr(module, "groups", 1) for path, module in modules.items()}
    if problems := [f"{path!r} has {count} groups" for path, count in groups.items() if count > 1]:
        raise ConversionError(
            f"a change that reaches over all groups of a convolution is no kernel of its form:{bullet_list(problems)}\n"
            f"Leave it beside the weight, as it is."
        )
    for path, module in modules.items():
        yield path, weight_change(module, get(params, path) if path else params)


def _without_lora(layer: Net) -> Net:
    if isinstance(layer, Lora):
        return layer.base
    assert isinstance(layer, Wrapped) and isinstance(layer.copy_pool.module, LoraModule)
    module = module_without_lora(layer.copy_pool.module)
    return Wrapped.of(module, reader_of_children(module, dict(layer.children)))


def _untie_changed(net: Net, adapter_by_weight: Mapping[str, str]) -> Net:
    """The net in which weights are tied no more that were changed by different adapters, or one of them by none."""
    new_owners: dict[tuple[str, str | None], str] = {}
    aliases: dict[str, str] = {}
    for alias, owner in net._aliases.items():
        key = owner, adapter_by_weight.get(alias)
        if key[1] == adapter_by_weight.get(owner):
            aliases[alias] = owner
        elif new_owners.setdefault(key, alias) != alias:
            aliases[alias] = new_owners[key]
    inner = [alias for alias in net.aliases if alias not in net._aliases and alias in adapter_by_weight]
    if inner:
        names = ", ".join(map(repr, inner))
        raise TreeError(f"{names}: tied by a net inside of {net.title()}. Tie at the outermost net, or merge that one.")
    return net if aliases == net._aliases else net._with_edits(replace(net._edits, aliases=tuple(aliases.items())))

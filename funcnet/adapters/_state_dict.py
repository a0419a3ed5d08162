"""From trees to a state_dict and back: the same tensors under the module's own keys, in the module's own order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from typing import Any, overload

from torch import Tensor

from funcnet._errors import InitError, TreeError, bullet_list
from funcnet._tensors import same_bits
from funcnet._typing import Flat, Tree, TreeLike
from funcnet.core import Buffer, Net, Param
from funcnet.core.internals import describe_misfits, find_misfits, misfit_error
from funcnet.foreign import Wrapped
from funcnet.foreign.internals import EXTRA_STATE
from funcnet.random import Stream
from funcnet.tree import flatten, get, join, unflatten
from funcnet.tree.internals import merge_params_and_buffers


@overload
def to_state_dict(params: TreeLike, buffers: TreeLike = ..., /) -> Flat: ...
@overload
def to_state_dict(net: Net, params: TreeLike, buffers: TreeLike = ..., /) -> Flat: ...
def to_state_dict(*args: Any) -> Flat:
    """A ``state_dict``: the joined paths are its keys.

    ``to_state_dict(params, buffers)`` joins what the trees hold. With the net in front, ``to_state_dict(net, params,
    buffers)`` is exactly the ``state_dict`` of the module: tied tensors appear under each of their names,
    non-persistent buffers are left out, what ``get_extra_state`` returned when the module was converted is in it, and
    the trees are checked. The tensors are shared, not copied.

    Args:
        net: the net the trees belong to; may be left out.
        params, buffers: nested dicts.

    Raises:
        TreeError: if the trees do not fit the net.
        TypeError: if they are not trees.

    >>> from funcnet import BatchNorm1d, Linear, Sequential
    >>> net = Sequential(Linear(2, 3), BatchNorm1d(3, affine=False))
    >>> list(to_state_dict(*net.init(0)))
    ['0.weight', '0.bias', '1.running_mean', '1.running_var', '1.num_batches_tracked']
    """
    if args and isinstance(args[0], Net):
        net, params, *optional = args
        return _state_dict_of_net(net, params, optional[0] if optional else {})
    if not args or not all(isinstance(tree, Mapping) for tree in args):
        raise TypeError(
            f"to_state_dict takes (net, params, buffers) or (params, buffers), got "
            f"({', '.join(type(tree).__name__ for tree in args)}). A module has its own: module.state_dict()."
        )
    params, *optional = args
    return flatten(merge_params_and_buffers(params, optional[0] if optional else {}))


def _state_dict_of_net(net: Net, params: TreeLike, buffers: TreeLike) -> Flat:
    lines = find_misfits(net, params, buffers)
    if lines:
        raise misfit_error(net, lines)
    aliases = net.aliases
    flat: Flat = {}
    for part_path, part in net.named_nets():
        for name, spec in part._own_entries.items():
            path = join(part_path, name)
            if isinstance(spec, Param) or spec.persistent:
                flat[path] = get(params if isinstance(spec, Param) else buffers, aliases.get(path, path))
        if isinstance(part, Wrapped) and EXTRA_STATE in part.copy_pool.extra_states:
            flat[join(part_path, EXTRA_STATE)] = deepcopy(part.copy_pool.extra_states[EXTRA_STATE])
    return flat


def from_state_dict(net: Net, state_dict: Mapping[str, Any], *, copy: bool = True) -> tuple[Tree, Tree]:
    """The params and buffers of a net from a ``state_dict``.

    Args:
        net: says which keys and shapes there are.
        state_dict: as ``module.state_dict()``, ``funcnet.checkpoint.load(path)`` or ``torch.load(path,
            weights_only=True)`` returns it. A tied tensor may be there under one of its names or under all of them; a
            non-persistent buffer may be missing, and then gets its first value. ``module.`` and ``_orig_mod.``, which
            DataParallel and torch.compile put into keys, are left out of them.
        copy: when false, the trees share memory with ``state_dict``.

    Returns:
        ``(params, buffers)`` with the dtypes and devices of ``state_dict``.

    Raises:
        TreeError: lists every missing, extra, mis-shaped and mis-typed key with the nearest name, and ties that differ.

    >>> import torch
    >>> from funcnet import Linear
    >>> params, buffers = from_state_dict(Linear(3, 2), torch.nn.Linear(3, 2).state_dict())
    >>> list(params), buffers
    (['weight', 'bias'], {})
    """
    if not isinstance(net, Net) or not isinstance(state_dict, Mapping):
        raise TypeError(
            f"from_state_dict takes (net, state_dict), got ({type(net).__name__}, {type(state_dict).__name__}). "
            f"For a module use funcnet.from_module(module)."
        )
    aliases = net.aliases
    specs = net._all_entries
    values = _without_wrapper_names(dict(state_dict), specs)
    lines = list(_remove_extra_states(net, values))
    for alias, owner in aliases.items():
        if owner not in values and alias in values:
            values[owner] = values[alias]
        elif alias not in values and owner in values:
            values[alias] = values[owner]
    for key, spec in specs.items():
        if key not in values and isinstance(spec, Buffer) and not spec.persistent:
            values[key] = _make_first_value(key, spec)
    lines += describe_misfits(specs, values)
    lines += [
        f"untied      {alias!r} and {owner!r} are one tensor in the net and differ here"
        for alias, owner in aliases.items()
        if isinstance(values.get(alias), Tensor) and isinstance(values.get(owner), Tensor)
        if values[alias] is not values[owner] and not same_bits(values[alias], values[owner])
    ]
    if lines:
        name = net.title()
        raise TreeError(
            f"the state_dict does not fit {name}: {len(lines)} problem{'s' * (len(lines) > 1)}{bullet_list(lines)}\n"
            f"Rename or reshape the keys, or build the net the file was saved from."
        )
    params: Flat = {}
    buffers: Flat = {}
    for entry in net.entries():
        value = values.pop(entry.path).detach()  # memory of a tensor from a file is freed as soon as it is copied
        (params if entry.kind == "params" else buffers)[entry.path] = value.clone() if copy else value
    return unflatten(params), unflatten(buffers)


def _without_wrapper_names(values: dict[str, Any], expected: Collection[str]) -> dict[str, Any]:
    """The values under the keys of the module itself, if a wrapper of torch put its name into them."""
    if all(key in expected for key in values):
        return values
    keys = list(values)
    if all(key.startswith("module.") for key in keys) and not any(key in expected for key in keys):
        keys = [key.removeprefix("module.") for key in keys]
    keys = [".".join(name for name in key.split(".") if name != "_orig_mod") for key in keys]
    return dict(zip(keys, values.values(), strict=True)) if len(set(keys)) == len(values) else values


def _remove_extra_states(net: Net, values: dict[str, Any]) -> Iterator[str]:
    """Remove what ``get_extra_state`` returned, and yield a line for each that is missing or not as the net has it."""
    for path, part in net.named_nets():
        if isinstance(part, Wrapped) and EXTRA_STATE in part.copy_pool.extra_states:
            key = join(path, EXTRA_STATE)
            if key not in values:
                yield f"missing     {key!r}: the module saves it by get_extra_state"
            elif not _are_equal(values.pop(key), part.copy_pool.extra_states[EXTRA_STATE]):
                yield (
                    f"other       {key!r}: it is part of the net, not of the trees, and this one is another; "
                    f"module.load_state_dict, then funcnet.from_module(module)"
                )


def _are_equal(left: object, right: object) -> bool:
    """Whether two extra states are equal; both may hold tensors, whose ``==`` is not a bool."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return same_bits(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return list(left) == list(right) and all(_are_equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and type(left) is type(right):
        return len(left) == len(right) and all(map(_are_equal, left, right))
    try:
        return bool(left == right)
    except (RuntimeError, ValueError):
        return False


def _make_first_value(key: str, spec: Buffer) -> Tensor:
    try:
        return spec.init(Stream(0), spec.shape, dtype=spec.dtype)
    except InitError as error:
        raise TreeError(f"non-persistent buffer {key!r} is not in the state_dict: {error}") from error

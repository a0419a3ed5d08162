"""From trees to a state_dict and back: the same tensors under the module's own keys, in the module's own order."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, overload

from torch import Tensor

from funcnet._errors import InitError, TreeError, bullet_list
from funcnet._tensors import is_tensordict, same_bits
from funcnet._typing import Flat, Tree, TreeLike
from funcnet.adapters._own_state_dict import (
    OTHER_STATE,
    LoadError,
    are_equal,
    has_own_loading,
    has_own_saving,
    load_by_module,
    make_first_value,
    save_by_module,
)
from funcnet.adapters._wrapper_names import rename_metadata, rename_unwrapped
from funcnet.core import Buffer, Net, Param
from funcnet.core.internals import describe_misfits, find_misfits, misfit_error
from funcnet.foreign import Wrapped
from funcnet.foreign.internals import EXTRA_STATE
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
    the trees are checked. If a foreign module saves by code of its own (``_save_to_state_dict``, hooks), that code runs
    on a copy. The tensors are shared, not copied.

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
    problems = find_misfits(net, params, buffers)
    if problems:
        raise misfit_error(net, problems)
    if has_own_saving(net):
        return save_by_module(net, params, buffers)
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
            non-persistent buffer may be missing, and then gets its first value. Names that wrappers put into keys
            (``module``, ``_orig_mod``, ``_fsdp_wrapped_module``, ``_checkpoint_wrapped_module``, ``_forward_module``)
            are removed. If the module has its own loading code, for keys of older versions for example,
            that code runs. Or a TensorDict, flat or nested.
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
    if is_tensordict(state_dict):
        state_dict = dict(state_dict.flatten_keys(".").items())  # type: ignore[attr-defined]  # no method of a Mapping
    paths = [path for path, _ in net.named_nets()]
    names = rename_unwrapped(list(state_dict), {*net._all_entries, *(join(path, EXTRA_STATE) for path in paths)})
    values = {names[key]: value for key, value in state_dict.items()}
    metadata = getattr(state_dict, "_metadata", None)
    metadata = None if metadata is None else rename_metadata(metadata, paths)
    _fill_tied(net.aliases, values)
    tensors, problems = (None, []) if has_own_loading(net) else _read_directly(net, dict(values))
    if tensors is None:
        if copy:  # code of the module may write to what it loads
            values = {key: value.clone() if isinstance(value, Tensor) else value for key, value in values.items()}
            copy = False
        tensors, module_problems = _read_by_module(net, values, metadata)
        problems = problems or module_problems
    if tensors is None:
        raise TreeError(
            f"the state_dict does not fit {net.title()}: {len(problems)} problem{'s' * (len(problems) > 1)}"
            f"{bullet_list(problems)}\nRename or reshape the keys, or build the net the file was saved from."
        )
    del values
    params: Flat = {}
    buffers: Flat = {}
    for entry in net.entries():
        value = tensors.pop(entry.path).detach()  # memory of a tensor from a file is freed as soon as it is copied
        (params if entry.kind == "params" else buffers)[entry.path] = value.clone() if copy else value
    return unflatten(params), unflatten(buffers)


def _fill_tied(aliases: Mapping[str, str], values: dict[str, Any]) -> None:
    """Add every name of a tied tensor that is there under only some of its names."""
    for alias, owner in aliases.items():
        if owner not in values and alias in values:
            values[owner] = values[alias]
        elif alias not in values and owner in values:
            values[alias] = values[owner]


def _read_directly(net: Net, values: dict[str, Any]) -> tuple[Flat | None, list[str]]:
    """The tensors of a ``state_dict`` whose keys are the paths of the net; else None, and a line for each problem."""
    specs = net._all_entries
    problems = _pop_extra_states(net, values)
    for key, spec in specs.items():
        if key not in values and isinstance(spec, Buffer) and not spec.persistent:
            values[key] = _first_value_at(key, spec)
    problems += _find_problems(net, values)
    return (None, problems) if problems else (values, [])


def _read_by_module(
    net: Net, values: Mapping[str, Any], metadata: Mapping[str, Any] | None
) -> tuple[Flat | None, list[str]]:
    """The tensors that the module of the net makes of a ``state_dict``; else None, and a line for each problem."""
    try:
        tensors = load_by_module(net, values, metadata)
    except LoadError as error:
        return None, list(error.args)
    problems = _find_problems(net, tensors)
    return (None, problems) if problems else (tensors, [])


def _find_problems(net: Net, values: Mapping[str, Any]) -> list[str]:
    """A line for each value that does not fit the net, and for ties of two that differ."""
    return describe_misfits(net._all_entries, values) + [
        f"untied      {alias!r} and {owner!r} are one tensor in the net and differ here"
        for alias, owner in net.aliases.items()
        if isinstance(values.get(alias), Tensor) and isinstance(values.get(owner), Tensor)
        if values[alias] is not values[owner] and not same_bits(values[alias], values[owner])
    ]


def _pop_extra_states(net: Net, values: dict[str, Any]) -> list[str]:
    """Remove what ``get_extra_state`` returned; return a line for each that is missing or differs from the net's."""
    problems: list[str] = []
    for path, part in net.named_nets():
        if isinstance(part, Wrapped) and EXTRA_STATE in part.copy_pool.extra_states:
            key = join(path, EXTRA_STATE)
            if key not in values:
                problems.append(f"missing     {key!r}: the module saves it by get_extra_state")
            elif not are_equal(values.pop(key), part.copy_pool.extra_states[EXTRA_STATE]):
                problems.append(OTHER_STATE.format(name=key))
    return problems


def _first_value_at(path: str, spec: Buffer) -> Tensor:
    try:
        return make_first_value(spec)
    except InitError as error:
        raise TreeError(f"non-persistent buffer {path!r} is not in the state_dict: {error}") from error

"""State_dicts of modules that save or load by code of their own: that code runs, on a private copy of the module.

A class may override ``_save_to_state_dict`` or ``_load_from_state_dict``, and hooks may rename, add and remove keys.
Such a module may save more than the joined paths of the trees, and may load keys that it does not have now. Some of
torch's own layers do so: BatchNorm loads files from before it counted batches, and a weight norm by parametrization
loads files from before there were parametrizations.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import InitError
from funcnet._tensors import same_bits
from funcnet._torch import loads_by_own_code, saves_by_own_code
from funcnet._typing import Flat, Tree, TreeLike
from funcnet.adapters._to_module import build_module
from funcnet.core import Buffer, Net, Param
from funcnet.foreign import Wrapped
from funcnet.random import Stream
from funcnet.tree import join, unflatten


def has_own_saving(net: Net) -> bool:
    """Whether code of a foreign module in a net changes its ``state_dict``, or the meaning of a version of it."""
    return any(saves_by_own_code(module) or loads_by_own_code(module) for module in _foreign_modules(net))


def has_own_loading(net: Net) -> bool:
    """Whether code of a foreign module in a net changes how a ``state_dict`` is loaded."""
    return any(map(loads_by_own_code, _foreign_modules(net)))


def _foreign_modules(net: Net) -> Iterator[nn.Module]:
    return (part.copy_pool.module for _, part in net.named_nets() if isinstance(part, Wrapped))


def save_by_module(net: Net, params: TreeLike, buffers: TreeLike) -> Flat:
    """The ``state_dict`` that the module of a net makes of trees that fit it. The tensors are shared."""
    state_dict: Flat = build_module(net, params, buffers, copy=False).state_dict()
    return state_dict


class LoadError(Exception):
    """A module refused a ``state_dict``, or loaded more from it than trees can hold; each argument is a problem."""


def load_by_module(net: Net, values: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> Flat:
    """The tensors by path that the module of a net has after it loaded a ``state_dict``, ties under each name.

    Args:
        net: the net.
        values: a ``state_dict``, whose tensors the module may write to and keep.
        metadata: the versions of the modules that it was saved from, by path, as torch stores them next to the keys.

    Raises:
        LoadError: if the module refuses it, if a tensor gets no value, or if more is loaded than trees can hold.
    """
    specs = net._all_entries
    own_values = dict(values)
    unsaved = {
        path: own_values.pop(path)
        for path, spec in specs.items()
        if isinstance(spec, Buffer) and not spec.persistent and path in own_values
    }
    placeholders = {
        path: unsaved[path] if isinstance(unsaved.get(path), Tensor) else _make_placeholder(path, spec, own_values)
        for path, spec in specs.items()
    }
    module = build_module(net, *_make_trees(net, placeholders), copy=False)
    before = _tensors_of(net, module)
    versions = {path: tensor._version for path, tensor in before.items()}
    _run_load_state_dict(module, own_values, metadata)
    loaded = _tensors_of(net, module)
    lines = [
        f"missing     {path!r}: the module takes this state_dict and leaves it as it is, and a net has no value for it"
        for path, tensor in loaded.items()
        if tensor is before[path] and tensor._version == versions[path] and path not in unsaved
        if not _has_first_value(specs[path])
    ]
    if not lines:
        rebuilt = build_module(net, *_make_trees(net, loaded), copy=False)
        lines = list(_compare_states(_describe_state(module), _describe_state(rebuilt)))
    if lines:
        raise LoadError(*lines)
    return {path: tensor.detach() for path, tensor in loaded.items()}


def _make_trees(net: Net, tensors: Mapping[str, Tensor]) -> tuple[Tree, Tree]:
    """The params and buffers of a net from its tensors by path."""
    flat: dict[str, Flat] = {"params": {}, "buffers": {}}
    for entry in net.entries():
        flat[entry.kind][entry.path] = tensors[entry.path]
    return unflatten(flat["params"]), unflatten(flat["buffers"])


def _run_load_state_dict(module: nn.Module, values: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> None:
    state: Any = OrderedDict(
        (key, value.detach() if isinstance(value, Tensor) else value) for key, value in values.items()
    )
    if metadata is not None:
        state._metadata = OrderedDict(metadata)
    # The module then uses these tensors themselves, with their dtypes, if its own method accepts ``assign``.
    parameters = inspect.signature(module.load_state_dict).parameters.values()
    can_assign = any(parameter.name == "assign" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    try:
        result = module.load_state_dict(state, **({"assign": True} if can_assign else {}))
    except Exception as error:
        text = " ".join(str(error).split())
        raise LoadError(f"the module does not load it: {type(error).__name__}: {text}") from error
    lines = [f"missing     {key!r}" for key in getattr(result, "missing_keys", ())]
    lines += [f"extra       {key!r}" for key in getattr(result, "unexpected_keys", ())]
    if lines:
        raise LoadError(*lines)


def _make_placeholder(path: str, spec: Param | Buffer, values: Mapping[str, Any]) -> Tensor:
    """A tensor for a module to load into: its first value if that is known, else zeros like the value."""
    value = values.get(path)
    like = value if isinstance(value, Tensor) and tuple(value.shape) == spec.shape else None
    if _has_first_value(spec):
        first = make_first_value(spec)
        return first if like is None else first.to(like.device)
    return torch.zeros(spec.shape, dtype=spec.dtype) if like is None else torch.zeros_like(like)


def make_first_value(spec: Param | Buffer) -> Tensor:
    """The first value of a tensor that draws nothing.

    Raises:
        InitError: if it is not known.
    """
    tensor: Tensor = spec.init(Stream(0), spec.sizes, dtype=spec.dtype)
    return tensor


def _has_first_value(spec: Param | Buffer) -> bool:
    """Whether a buffer has a first value that a file may leave it at, as torch's modules do."""
    if not isinstance(spec, Buffer):
        return False
    try:
        make_first_value(spec)
    except InitError:
        return False
    return True


def _tensors_of(net: Net, module: nn.Module) -> Flat:
    tensors: Flat = {}
    for path, part in net.named_nets():
        submodule = module.get_submodule(path)
        for name, spec in part._own_entries.items():
            tensors[join(path, name)] = (submodule._parameters if isinstance(spec, Param) else submodule._buffers)[name]  # type: ignore[assignment]
    return tensors


def _describe_state(module: nn.Module) -> dict[str, Any]:
    """Everything that a module saves, and the plain values among its attributes."""
    state = dict(module.state_dict())
    for path, submodule in module.named_modules(remove_duplicate=False):
        for name, value in vars(submodule).items():
            if isinstance(value, (bool, int, float, complex, str, torch.dtype, type(None))):
                state[join(path, name)] = value
    return state


def _compare_states(loaded: Mapping[str, Any], rebuilt: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value that a module loaded and that a module rebuilt from the trees does not have."""
    for name in dict.fromkeys((*loaded, *rebuilt)):
        if name not in loaded or name not in rebuilt or not are_equal(loaded[name], rebuilt[name]):
            yield OTHER_STATE.format(name=name)


OTHER_STATE = (
    "other       {name!r}: it is part of the net, not of the trees, and this one is another; module.load_state_dict, "
    "then funcnet.from_module(module)"
)
"""The line about a value that a net takes from its module, and that is different in a state_dict."""


def are_equal(left: object, right: object) -> bool:
    """Whether two nested states are equal; both may hold tensors, whose ``==`` is not a bool."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return _is_same_memory(left, right) or same_bits(left, right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return list(left) == list(right) and all(are_equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and type(left) is type(right):
        return len(left) == len(right) and all(map(are_equal, left, right))
    if isinstance(left, torch.ScriptObject) and isinstance(right, torch.ScriptObject):  # packed weights
        return are_equal(left.__getstate__(), right.__getstate__())  # type: ignore[attr-defined]  # of the class
    try:
        return bool(left == right)
    except (RuntimeError, ValueError):
        return False


def _is_same_memory(left: Tensor, right: Tensor) -> bool:
    if left.layout != torch.strided or left.is_quantized or left.is_meta or right.is_meta:
        return False
    same_layout = (left.dtype, left.shape, left.stride()) == (right.dtype, right.shape, right.stride())
    return same_layout and left.data_ptr() == right.data_ptr() != 0

"""Copies of what a foreign forward runs on, so that it reaches nothing of its owner's.

``copy.deepcopy`` alone leaves four ways out: a function is shared with all it has closed over (the module itself, most
often), a weak reference points back into the original, a lock stops it, and a module compiled by torch comes with its
compiled code. And where weights are not wanted, it would copy them all.
"""

from __future__ import annotations

import copy
import logging
import threading
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, bullet_list
from funcnet._torch import inside_wrapper
from funcnet.foreign._module_walk import named_modules
from funcnet.tree import join

_ATOMS = (
    *(str, bytes, int, float, complex, bool, type(None), type(...), type, slice, range),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType, logging.Logger),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout, torch.finfo, torch.iinfo),
)
_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}


class _Cells(MutableMapping[Any, Any]):
    """The contents of closures, under the cell they are in."""

    def __getitem__(self, cell: Any) -> Any:
        return cell.cell_contents

    def __setitem__(self, cell: Any, value: Any) -> None:
        cell.cell_contents = value

    def __delitem__(self, cell: Any) -> None: ...
    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


CELLS = _Cells()


def holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a value holds: pairs of a container and its keys, such that ``container[key]`` is one thing held."""
    if isinstance(value, (*_ATOMS, Tensor, weakref.ref)):
        return
    if isinstance(value, types.FunctionType):
        yield CELLS, [cell for cell in value.__closure__ or () if _filled(cell)]
        yield value.__defaults__ or (), range(len(value.__defaults__ or ()))
        yield value.__kwdefaults__ or {}, list(value.__kwdefaults__ or {})
        yield value.__dict__, list(value.__dict__)
        return
    if isinstance(value, (types.MethodType, partial)):
        parts = (value.__func__, value.__self__) if isinstance(value, types.MethodType) else value.__reduce__()[2]
        yield parts, range(len(parts))
        return
    if isinstance(value, (list, tuple, deque)):
        yield value, range(len(value))
    elif isinstance(value, (set, frozenset)):
        yield (items := list(value)), range(len(items))
    elif isinstance(value, Mapping):
        yield value, list(value)
        yield (keys := list(value)), range(len(keys))
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict):
        yield state, [key for key in state if key != "_compiled_call_impl"]  # of module.compile(), and not copied
    slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
    yield slots, list(slots)


def reached(value: Any) -> dict[int, Any]:
    """Everything that can be reached from a value, itself included, by id."""
    found: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) in found or isinstance(one, _ATOMS):
            continue
        found[id(one)] = one
        if isinstance(one, nn.Module) and (inner := inside_wrapper(one)) is not None:
            waiting.append(inner)  # the compiler's own state is not looked at
            continue
        for container, keys in holders(one):
            waiting += [container[key] for key in keys]
    return found


def private(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy that shares nothing a call could change.

    Args:
        value: what to copy.
        memo: copies already made, by the id of what they are of; filled with those made here.
    """
    found = reached(value)
    functions = {one: _hollow(one, memo) for one in found.values() if _closes_over(one)}
    memo.update({id(one): made for one, made in functions.items()})
    for one in found.values():
        if type(one) in _LOCKS:
            memo[id(one)] = _LOCKS[type(one)]()
    for one in found.values():
        if isinstance(one, nn.Module) and (inner := inside_wrapper(one)) is not None:
            memo[id(one)] = copy.deepcopy(inner, memo)
    made = copy.deepcopy(value, memo)
    for function, copied in functions.items():
        for cell, own in zip(function.__closure__ or (), copied.__closure__ or (), strict=True):
            if _filled(cell):
                own.cell_contents = copy.deepcopy(cell.cell_contents, memo)
        copied.__defaults__ = copy.deepcopy(function.__defaults__, memo)
        copied.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    if any(isinstance(one, weakref.ref) for one in found.values()):
        for one in reached(made).values():
            for container, keys in holders(one):
                _point_at_copies(container, keys, memo)
    return made


def _point_at_copies(container: Any, keys: Any, memo: dict[int, Any]) -> None:
    for key in keys:
        held = container[key]
        if type(held) is weakref.ref and id(held()) in memo and isinstance(container, (list, dict, _Cells)):
            container[key] = weakref.ref(memo[id(held())])


def _closes_over(value: Any) -> bool:
    """Whether a function holds something that a call could change or that has a copy."""
    if not isinstance(value, types.FunctionType):
        return False
    held = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
    held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    plain = (types.FunctionType, *_ATOMS)
    return any(not isinstance(one, plain) or _closes_over(one) for one in held if one is not value)


def _hollow(function: Any, memo: dict[int, Any]) -> types.FunctionType:
    """A function of the same code whose cells are still empty; functions that share a cell go on sharing it."""
    cells = tuple(memo.setdefault(id(cell), types.CellType()) for cell in function.__closure__ or ())
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    made.__dict__.update(function.__dict__)
    made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
    return made


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _slots(kind: type) -> Iterator[str]:
    for cls in kind.__mro__:
        if cls.__module__ not in ("builtins", "collections"):
            names = cls.__dict__.get("__slots__", ())
            yield from (
                name
                for name in ((names,) if isinstance(names, str) else names)
                if name not in ("__dict__", "__weakref__")
            )


def without_weights(module: nn.Module) -> nn.Module:
    """A copy whose tensors are on the meta device: it costs no memory and computes nothing by itself.

    Raises:
        ConversionError: if attributes of the module cannot be copied; names them.
    """

    def empty(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        else:  # sparse ones hold no memory of their shape
            made = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made

    return copy_with_tensors(module, empty, "from_module runs a foreign forward on a private copy")


def copy_with_tensors(module: nn.Module, tensor_for: Callable[[Tensor], Tensor], why: str) -> nn.Module:
    """A private copy with other tensors in the place of its parameters and buffers.

    Args:
        module: what to copy.
        tensor_for: the tensor, or the ``nn.Parameter``, to put in the place of one.
        why: words for the error.

    Raises:
        ConversionError: if attributes of the module cannot be copied; names them.
    """
    memo: dict[int, Any] = {id(tensor): tensor_for(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for below in module.modules():
        for tensor in _computed_by_hooks(below):
            memo[id(tensor)] = tensor_for(tensor.detach())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are deprecated and warn when they are made
            return private(module, dict(memo))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ConversionError(
            f"cannot copy {type(module).__name__}: {reason:.200}{bullet_list(_obstacles(module, memo))}\n"
            f"{why}, so every attribute must survive copy.deepcopy: take files, generators and graph tensors off the "
            f"module."
        ) from error


def _obstacles(module: nn.Module, memo: dict[int, Any]) -> Iterator[str]:
    """The attributes that cannot be copied."""
    for path, below in named_modules(module):
        for name, value in below.__dict__.items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                private(value, dict(memo))
            except Exception as error:
                yield f"{join(path, name)}: {type(value).__name__}: {error!s:.80}"


def _computed_by_hooks(module: nn.Module) -> Iterator[Tensor]:
    """The attributes that pre-hooks of torch.nn.utils compute anew before each call: of weight norm, pruning ..."""
    for hook in module._forward_pre_hooks.values():
        name = getattr(hook, "name", getattr(hook, "_tensor_name", ""))
        value = module.__dict__.get(name)
        if isinstance(value, Tensor) and type(hook).__module__.startswith("torch.nn.utils."):
            yield value

"""Deep copies of a module for calls, so that its forward cannot reach the caller's objects.

``copy.deepcopy`` alone leaves four ways out: a function is shared with everything it has closed over (most often the
module itself), a weak reference points back into the original, a lock stops the copying, and a module compiled by torch
comes with its compiled code. And where weights are not wanted, it would copy all of them.
"""

from __future__ import annotations

import copy
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError, bullet_list
from funcnet._reachable import ATOM_CLASSES, CellContents, collect_reachable, is_assigned, iter_containers
from funcnet._torch import is_wrapped_by_transform, module_inside_wrapper, unwrap_all
from funcnet.foreign._module_walk import named_modules
from funcnet.tree import join

_T = TypeVar("_T")

CopiesById: TypeAlias = dict[int, Any]
"""Copies by the id of the object that each is a copy of: the ``memo`` of ``copy.deepcopy``."""

_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}


def deepcopy_isolated(value: _T, memo: CopiesById) -> _T:
    """A deep copy that shares no object with the original that a call could change.

    Args:
        value: what to copy.
        memo: copies that exist already, which are used; those made here are added to it.
    """
    objects = collect_reachable(value).values()
    functions = {obj: _copy_function_hollow(obj, memo) for obj in objects if _needs_copy_of_function(obj)}
    memo.update({id(function): hollow for function, hollow in functions.items()})
    for obj in objects:
        if type(obj) in _LOCKS:
            memo[id(obj)] = _LOCKS[type(obj)]()
    for obj in objects:
        if isinstance(obj, nn.Module) and (inner := module_inside_wrapper(obj)) is not None:
            memo[id(obj)] = copy.deepcopy(inner, memo)
    result = copy.deepcopy(value, memo)
    for function, hollow in functions.items():
        for cell, new_cell in zip(function.__closure__ or (), hollow.__closure__ or (), strict=True):
            if is_assigned(cell):
                new_cell.cell_contents = copy.deepcopy(cell.cell_contents, memo)
        hollow.__defaults__ = copy.deepcopy(function.__defaults__, memo)
        hollow.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    if any(isinstance(obj, weakref.ref) for obj in objects):
        for obj in collect_reachable(result).values():
            for container, keys in iter_containers(obj):
                _redirect_weak_references(container, keys, memo)
    return result


def _redirect_weak_references(container: Any, keys: Iterable[Any], memo: CopiesById) -> None:
    """Replace the weak references in a container by references to the copies of what they refer to."""
    for key in keys:
        value = container[key]
        if type(value) is weakref.ref and id(value()) in memo and isinstance(container, (list, dict, CellContents)):
            container[key] = weakref.ref(memo[id(value())])


def _needs_copy_of_function(value: object) -> bool:
    """Whether a value is a function that holds something that a call could change or that has a copy."""
    if not isinstance(value, types.FunctionType):
        return False
    contents = [cell.cell_contents for cell in value.__closure__ or () if is_assigned(cell)]
    contents += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    harmless = (types.FunctionType, *ATOM_CLASSES)
    return any(
        not isinstance(content, harmless) or _needs_copy_of_function(content)
        for content in contents
        if content is not value
    )


def _copy_function_hollow(function: types.FunctionType, memo: CopiesById) -> types.FunctionType:
    """A function of the same code whose cells are still empty; functions that share a cell share its copy too."""
    cells = tuple(memo.setdefault(id(cell), types.CellType()) for cell in function.__closure__ or ())
    hollow = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    hollow.__dict__.update(function.__dict__)
    hollow.__qualname__, hollow.__module__, hollow.__doc__ = (
        function.__qualname__,
        function.__module__,
        function.__doc__,
    )
    return hollow


def copy_without_weights(module: nn.Module) -> nn.Module:
    """A copy whose tensors are on the meta device: it costs no memory and computes nothing by itself.

    Raises:
        ConversionError: if attributes of the module cannot be copied; names them.
    """

    def empty_like(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        else:  # a sparse tensor holds no memory of its shape
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Buffer):
            return nn.Buffer(empty)
        return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty

    return copy_with_tensors(module, empty_like, "from_module runs a foreign forward on a private copy")


def copy_with_tensors(module: nn.Module, tensor_for: Callable[[Tensor], Tensor], why: str) -> nn.Module:
    """An isolated copy with other tensors in the place of its parameters and buffers.

    Args:
        module: what to copy.
        tensor_for: returns the tensor, or the ``nn.Parameter``, to put in the place of the one that it is given.
        why: words for the error.

    Raises:
        ConversionError: if attributes of the module cannot be copied, or it contains itself; names them.
    """
    memo: CopiesById = {id(tensor): tensor_for(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for _, submodule in named_modules(module):
        for tensor in _iter_hook_tensors(submodule):
            memo[id(tensor)] = tensor_for(tensor.detach())
    for obj in collect_reachable(module).values():
        is_kept_by_a_call = isinstance(obj, Tensor) and (is_wrapped_by_transform(obj) or not obj.is_leaf)
        if is_kept_by_a_call and id(obj) not in memo:  # which deepcopy refuses
            memo[id(obj)] = unwrap_all(obj).detach().clone()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated classes warn when an object of theirs is made
            return deepcopy_isolated(module, dict(memo))
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ConversionError(
            f"cannot copy {type(module).__name__}: {reason:.200}{bullet_list(_iter_obstacles(module, memo))}\n"
            f"{why}, so every attribute must survive copy.deepcopy: take files, iterators and the like off the "
            f"module."
        ) from error


def _iter_obstacles(module: nn.Module, memo: CopiesById) -> Iterator[str]:
    """Words for each attribute that cannot be copied."""
    for path, submodule in named_modules(module):
        for name, value in submodule.__dict__.items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                deepcopy_isolated(value, dict(memo))
            except Exception as error:
                yield f"{join(path, name)}: {type(value).__name__}: {error!s:.80}"


def _iter_hook_tensors(module: nn.Module) -> Iterator[Tensor]:
    """The tensors that pre-hooks of torch.nn.utils (weight norm, pruning, ...) compute anew before each call."""
    for hook in module._forward_pre_hooks.values():
        name = getattr(hook, "name", getattr(hook, "_tensor_name", ""))
        value = module.__dict__.get(name)
        if isinstance(value, Tensor) and type(hook).__module__.startswith("torch.nn.utils."):
            yield value

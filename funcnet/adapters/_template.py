"""Private copies of a module, without weights, for calls to run its forward on.

A forward may leave things behind: a counter, a cache, a lazily made buffer, an advanced generator. So every copy is
looked at after its call, and one that is not as it was made is thrown away. No call sees what another left.
"""

from __future__ import annotations

import copy
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from funcnet._errors import ConversionError

_INTERNALS = frozenset(vars(nn.Module()))
_LARGE = 1000  # of a container with more items only the length is looked at


class Lease(NamedTuple):
    """A copy lent to one call, and what it was like before."""

    module: nn.Module
    before: list[Any]


class Template:
    """The pristine copy of a module, and copies of it ready to be lent, by their train flags."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.names = [name for name, _ in module.named_modules(remove_duplicate=False)]
        self.slots = _slots(module)
        self.renormalised = _renormalised(module)
        self._ready: dict[Any, deque[Lease]] = {}
        self._fixed = {flag: self._copy(flag) for flag in (False, True)}

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["module"])  # type: ignore[misc]

    def _copy(self, flags: bool | tuple[bool, ...]) -> nn.Module:
        module = copy.deepcopy(self.module)
        each = [flags] * len(self.names) if isinstance(flags, bool) else flags
        for name, flag in zip(self.names, each, strict=True):
            module.get_submodule(name).training = flag
        return module

    def take(self, flags: bool | tuple[bool, ...]) -> Lease:
        """A copy that nobody else has until :meth:`give_back`."""
        try:
            return self._ready.setdefault(flags, deque()).pop()
        except IndexError:
            module = self._copy(flags)
            return Lease(module, list(_traces(module)))

    def give_back(self, flags: bool | tuple[bool, ...], lease: Lease) -> None:
        """Let others have it, if it is as it was."""
        after = list(_traces(lease.module))
        if len(after) == len(lease.before) and all(map(_same, after, lease.before)):
            self._ready[flags].append(lease)

    def fixed(self, flags: bool) -> nn.Module:
        """The copy that torch.compile traces: one object, so that compiled code is found again."""
        return self._fixed[flags]


def without_weights(module: nn.Module) -> nn.Module:
    """A copy whose tensors are on the meta device: it costs no memory and computes nothing by itself.

    Raises:
        ConversionError: if an attribute of the module cannot be copied.
    """

    def empty(tensor: Tensor) -> Tensor:
        like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return nn.Parameter(like, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else like

    return replica(module, empty, "from_module runs a foreign forward on a private copy")


def replica(module: nn.Module, tensor_for: Callable[[Tensor], Tensor], why: str) -> nn.Module:
    """A deep copy with other tensors in the place of its parameters and buffers; ``why`` is for the error.

    Raises:
        ConversionError: if an attribute of the module cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor_for(tensor) for tensor in (*module.parameters(), *module.buffers())}
    for below in module.modules():
        for tensor in _computed_by_hooks(below):
            memo[id(tensor)] = torch.empty_like(tensor, device="meta")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that are deprecated and warn when they are made
            return copy.deepcopy(module, memo)
    except Exception as error:
        raise ConversionError(
            f"cannot copy {type(module).__name__}: {error}. {why}, so every attribute must survive copy.deepcopy: take "
            f"files, locks and graph tensors off the module."
        ) from error


def _computed_by_hooks(module: nn.Module) -> Iterator[Tensor]:
    """The attributes that pre-hooks of torch.nn.utils compute anew before each call: of weight norm, pruning ..."""
    for hook in module._forward_pre_hooks.values():
        name = getattr(hook, "name", getattr(hook, "_tensor_name", ""))
        value = module.__dict__.get(name)
        if isinstance(value, Tensor) and type(hook).__module__.startswith("torch.nn.utils."):
            yield value


def _slots(module: nn.Module) -> dict[str, str]:
    """Every name of a tensor, and the first name of the same attribute of the same module."""
    first: dict[int, str] = {}
    slots: dict[str, str] = {}
    for prefix, below in module.named_modules(remove_duplicate=False):
        place = first.setdefault(id(below), prefix)
        for name in (*below._parameters, *below._buffers):
            slots[f"{prefix}.{name}" if prefix else name] = f"{place}.{name}" if place else name
    return slots


def _renormalised(module: nn.Module) -> list[str]:
    """Names of the weights that embeddings with max_norm shorten in place."""
    return [
        f"{prefix}.weight" if prefix else "weight"
        for prefix, below in module.named_modules(remove_duplicate=False)
        if isinstance(below, (nn.Embedding, nn.EmbeddingBag)) and below.max_norm is not None
    ]


def _traces(module: nn.Module) -> Iterator[Any]:
    """Everything a forward could have changed on a module, in a fixed order."""
    seen: set[int] = set()
    for below in module.modules():
        for tensors in (below._parameters, below._buffers):
            for name, tensor in tensors.items():
                yield name
                yield tensor is None
        if not type(below).__module__.startswith("torch.nn.modules."):  # torch's own leave nothing behind
            yield from _walk({key: value for key, value in below.__dict__.items() if key not in _INTERNALS}, seen)


def _walk(value: Any, seen: set[int]) -> Iterator[Any]:
    yield value if not isinstance(value, (dict, list, set, tuple)) else None
    if isinstance(value, Tensor):
        yield value._version
    elif isinstance(value, torch.Generator):
        yield object()  # it may have moved, and nothing is equal to this
    if id(value) in seen or isinstance(value, (str, int, float, bool, type(None), Tensor, nn.Module, type)):
        return
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        items: Any = [part for pair in value.items() for part in pair]
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        items = value
    else:
        items = [part for pair in getattr(value, "__dict__", {}).items() for part in pair]
    yield len(items)
    if len(items) <= _LARGE:
        for item in items:
            yield from _walk(item, seen)


def _same(left: Any, right: Any) -> bool:
    return left is right or (type(left) is type(right) and isinstance(left, (int, str, float)) and left == right)

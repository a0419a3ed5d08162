"""A foreign forward as a net: torch.func.functional_call, made pure.

functional_call alone swaps tensors into the module it is given, so two threads corrupt each other; it hands in-place
buffer writes to the caller's tensors; and a forward may draw from the global generator, write to its inputs or leave
things behind on the module. Here it runs on private templates that hold no weights, on copies of inputs and buffers.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import optree
import torch
from torch import Tensor, nn
from torch.func import functional_call

from funcnet._errors import ConversionError, InitError
from funcnet._typing import Tree
from funcnet.core import Buffer, Net, Param, View
from funcnet.core._view import origin
from funcnet.init import Draw, Scheme
from funcnet.tree import flatten, join


class Template:
    """Copies of a module without weights, lent to one call at a time; one set for each combination of train flags."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.names = [name for name, _ in module.named_modules(remove_duplicate=False)]
        self.owners = _owners(module)
        self.leaves_attributes: bool | None = None  # known after the first call
        self._ready: dict[Any, deque[nn.Module]] = {}
        self._fixed: dict[Any, nn.Module] = {flag: self._copy(flag) for flag in (False, True)}

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

    def take(self, flags: bool | tuple[bool, ...]) -> nn.Module:
        """A template that nobody else has until :meth:`give_back`."""
        try:
            return self._ready.setdefault(flags, deque()).pop()
        except IndexError:
            return self._copy(flags)

    def give_back(self, flags: bool | tuple[bool, ...], module: nn.Module) -> None:
        """Let others take it."""
        self._ready[flags].append(module)

    def fixed(self, flags: bool) -> nn.Module:
        """The template that torch.compile traces: one object, so that compiled code is found again."""
        return self._fixed[flags]


class Wrapped(Net):
    """A module's own forward as a net. Made by :func:`funcnet.from_module`.

    Params and buffers have the module's keys; ``named_nets`` shows its children. Calls are pure: new buffers are
    returned, inputs and module stay as they are, draws come from ``rng``, and threads do not meet.
    """

    template: Template
    children: tuple[tuple[str, Net], ...]
    tensors: tuple[tuple[str, Param | Buffer], ...]

    @classmethod
    def of(cls, module: nn.Module, convert: Callable[[nn.Module], Net]) -> Wrapped:
        """The net for a module; ``convert`` makes those of its children."""
        tensors: dict[str, Param | Buffer] = {}
        for name, param in module._parameters.items():
            if param is not None:
                tensors[name] = Param(tuple(param.shape), Scheme(_unknown, ()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                persistent = name not in module._non_persistent_buffers_set
                scheme = Scheme(_unknown, ()) if persistent else Scheme(_carried, (("value", Carried(buffer)),))
                exact = None if buffer.is_floating_point() or buffer.is_complex() else buffer.dtype
                tensors[name] = Buffer(tuple(buffer.shape), scheme, exact, persistent)
        children = tuple((name, convert(child)) for name, child in module._modules.items() if child is not None)
        return cls(Template(_without_weights(module)), children, tuple(tensors.items()))

    def title(self) -> str:
        return type(self.template.module).__name__

    def parts(self) -> Mapping[str, Any]:
        return {**dict(self.tensors), **dict(self.children)}

    def constants(self) -> Mapping[str, Any]:
        return {}

    def opaque(self) -> bool:
        return True

    def as_module(self) -> nn.Module:
        return copy.deepcopy(self.template.module).train()

    def check_init(self, path: str) -> None:
        raise InitError(
            f"{self.title()} at {path or 'the root'!r} initialises itself in Python code that funcnet cannot replay. "
            f"Build the module under torch.manual_seed(seed) and take its params from funcnet.from_module(module)."
        )

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        buffers = flatten(p._buffers) if hasattr(p, "_buffers") else {}  # the call's own, made for writing
        given = {**flatten(p._params), **buffers}
        # each tied tensor under one name only: functional_call fills in the others, and stumbles over some of them
        tensors = {path: given[path] for path in given if self.template.owners[path] == path}
        inputs, kwargs = optree.tree_map(_private, (inputs, kwargs), none_is_leaf=True)  # type: ignore[arg-type, assignment]
        output = self._call(p, tensors, inputs, kwargs)
        _record(p, {path: tensors[self.template.owners[path]] for path in buffers})
        return output

    def _call(self, p: View, tensors: dict[str, Tensor], inputs: Any, kwargs: Any) -> Any:
        call, path = origin(p)
        flags: Any = call.train if isinstance(call.train, bool) else self._flags(call.train, path)
        if torch.compiler.is_compiling():
            return functional_call(self.template.fixed(flags), tensors, inputs, kwargs, strict=True)
        module = self.template.take(flags)
        before = None if self.template.leaves_attributes is False else [dict(m.__dict__) for m in module.modules()]
        try:
            return functional_call(module, tensors, inputs, kwargs, strict=True)
        finally:
            if before is not None:
                self._restore(module, before)
            self.template.give_back(flags, module)

    def _restore(self, module: nn.Module, before: list[dict[str, Any]]) -> None:
        """Take off what the forward left on the template; and remember whether it leaves anything."""
        left = False
        for submodule, attributes in zip(list(module.modules()), before, strict=False):
            now = submodule.__dict__
            if len(now) != len(attributes) or any(now.get(name) is not value for name, value in attributes.items()):
                left = True
                now.clear()
                now.update(attributes)
        if self.template.leaves_attributes is None:
            self.template.leaves_attributes = left

    def _flags(self, train: Callable[[str], bool], path: str) -> tuple[bool, ...]:
        return tuple(bool(train(join(path, name))) for name in self.template.names)


def _without_weights(module: nn.Module) -> nn.Module:
    """A copy whose tensors are on the meta device: it costs no memory and computes nothing by itself."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise ConversionError(
            f"cannot copy {type(module).__name__}: {error}. from_module runs a foreign forward on a private copy, "
            f"so every attribute of the module must survive copy.deepcopy; take files, locks and graph tensors off it."
        ) from error


def _owners(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer, and the first name of the same tensor."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _private(value: Any) -> Any:
    """A copy of an input, which a forward may write to; expanded tensors cannot be written to anyway."""
    if isinstance(value, Tensor) and 0 not in value.stride():
        return value.clone()
    return value


def _record(p: View, new: Mapping[str, Tensor]) -> None:
    if not new or origin(p)[0].closed:
        return
    for path, value in new.items():
        node: Tree = p._buffers
        *parents, leaf = path.split(".")
        for key in parents:
            node = node[key]
        node[leaf] = value


class Carried:
    """The value of a non-persistent buffer, which no state_dict holds; equal only to itself."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach().clone()

    def __repr__(self) -> str:
        return f"<tensor of shape {tuple(self.value.shape)}>"


def _unknown(draw: Draw) -> Tensor:
    raise InitError("a foreign module's tensor has no known first value; take it from funcnet.from_module(module).")


def _carried(draw: Draw, value: Carried) -> Tensor:
    return value.value.to(draw.device, copy=True)

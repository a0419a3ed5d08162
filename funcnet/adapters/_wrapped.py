"""A foreign forward as a net: torch.func.functional_call, made pure.

functional_call alone swaps tensors into the module it is given, so two threads corrupt each other; it hands in-place
buffer writes to the caller's tensors; and a forward may draw from the global generator, write to its inputs or leave
things behind on the module. Here it runs on private templates that hold no weights, on copies of inputs and buffers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import optree
import torch
from torch import Tensor, nn
from torch.func import functional_call

from funcnet._errors import InitError
from funcnet._typing import Tree
from funcnet.adapters._template import Template, without_weights
from funcnet.core import Buffer, Net, Param, View
from funcnet.core._entries import exact_dtype
from funcnet.core._view import origin
from funcnet.init import Draw, Scheme
from funcnet.tree import flatten, join


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
                tensors[name] = Param(tuple(param.shape), UNKNOWN, exact_dtype(param))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                persistent = name not in module._non_persistent_buffers_set
                scheme = UNKNOWN if persistent else Scheme(_carried, (("value", Carried(buffer)),))
                tensors[name] = Buffer(tuple(buffer.shape), scheme, exact_dtype(buffer), persistent)
        children = tuple((name, convert(child)) for name, child in module._modules.items() if child is not None)
        return cls(Template(without_weights(module)), children, tuple(tensors.items()))

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
        # One name for each attribute of a module, and functional_call told of no ties: it stumbles over some.
        tensors = {self.template.slots[path]: tensor for path, tensor in given.items()}
        for path in self.template.renormalised:
            tensors[self.template.slots[path]] = given[path].clone()
        inputs, kwargs = _private_copies((inputs, kwargs))
        output = self._call(p, tensors, inputs, kwargs)
        _record(p, {path: tensors[self.template.slots[path]] for path in buffers})
        return output

    def _call(self, p: View, tensors: dict[str, Tensor], inputs: Any, kwargs: Any) -> Any:
        call, path = origin(p)
        flags: Any = call.train if isinstance(call.train, bool) else self._flags(call.train, path)
        if torch.compiler.is_compiling():
            return functional_call(self.template.fixed(flags), tensors, inputs, kwargs, tie_weights=False)
        lease = self.template.take(flags)
        output = functional_call(lease.module, tensors, inputs, kwargs, tie_weights=False)
        self.template.give_back(flags, lease)
        return output

    def _flags(self, train: Callable[[str], bool], path: str) -> tuple[bool, ...]:
        return tuple(bool(train(join(path, name))) for name in self.template.names)


def _private_copies(given: Any) -> Any:
    """Copies of all inputs, which a forward may write to; a tensor given twice stays one."""
    copies: dict[int, Tensor] = {}

    def private(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        plain = value.layout == torch.strided and not value.is_nested
        if plain and 0 in value.stride():
            return value  # expanded: it cannot be written to
        if id(value) not in copies:
            copies[id(value)] = value.clone()
        return copies[id(value)]

    return optree.tree_map(private, given, none_is_leaf=True)


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
    """The value of a non-persistent buffer, which no state_dict holds."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach().clone()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Carried) or self.value.dtype != other.value.dtype:
            return False
        return torch.equal(self.value, other.value)

    def __hash__(self) -> int:
        return hash((tuple(self.value.shape), self.value.dtype))

    def __repr__(self) -> str:
        return f"<tensor of shape {tuple(self.value.shape)}>"


def _unknown(draw: Draw) -> Tensor:
    raise InitError("a foreign module's tensor has no known first value; take it from funcnet.from_module(module).")


UNKNOWN = Scheme(_unknown, ())
"""First values of what a module made by code of its own."""


def _carried(draw: Draw, value: Carried) -> Tensor:
    return value.value.to(draw.device, copy=True)

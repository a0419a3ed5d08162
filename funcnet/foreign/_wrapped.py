"""A foreign forward as a net: what torch.func.functional_call does, made pure.

functional_call swaps tensors into the module it is given, so two threads corrupt each other; it hands in-place buffer
writes to the caller's tensors; and a forward may draw from the global generator, write to its inputs or leave things
behind on the module. Here it runs on private copies that hold no weights, on copies of inputs and buffers.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from funcnet._context import levels_of, under_vmap
from funcnet._errors import InitError, RandomnessError
from funcnet._torch import call_impl, constant_result
from funcnet.core import Buffer, Net, Param, View
from funcnet.core.internals import EMPTY_TREE, Call, ForeignNet, call_and_path, dtype_to_declare
from funcnet.foreign._copied_inputs import copy_inputs, tensors_in
from funcnet.foreign._leased_copies import Flags, Lease, Template, within
from funcnet.init import Scheme
from funcnet.init.internals import TensorRequest
from funcnet.random import Stream
from funcnet.tree import flatten, join


class Wrapped(ForeignNet):
    """A module's own forward as a net. Made by :func:`funcnet.from_module`.

    Params and buffers have the module's keys; ``named_nets`` shows its children. Calls are pure: new buffers are
    returned, inputs and module stay as they are, draws come from ``rng`` by the path of the submodule that draws, and
    threads do not meet. ``net.apply(..., method="encode")`` runs another method of the module than its forward.
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
                tensors[name] = Param(tuple(param.shape), UNKNOWN_VALUE, dtype_to_declare(param))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                persistent = name not in module._non_persistent_buffers_set
                scheme = UNKNOWN_VALUE if persistent else Scheme(_carried, (("value", Carried(buffer)),))
                tensors[name] = Buffer(tuple(buffer.shape), scheme, dtype_to_declare(buffer), persistent)
        children = tuple((name, convert(child)) for name, child in module._modules.items() if child is not None)
        return cls(Template(module), children, tuple(tensors.items()))

    def title(self) -> str:
        return type(self.template.module).__name__

    def parts(self) -> Mapping[str, Any]:
        return {**dict(self.tensors), **dict(self.children)}

    def module_repr(self) -> str | None:
        return self.template.shown

    def code_classes(self) -> set[type]:
        kinds = {type(below) for below in self.template.module.modules()}
        return {kind for kind in kinds if not kind.__module__.startswith(("torch.", "funcnet."))}

    def as_module(self) -> nn.Module:
        return copy.deepcopy(self.template.module).train()

    def check_init(self, path: str) -> None:
        raise InitError(
            f"{self.title()} at {path or 'the root'!r} initialises itself in Python code that funcnet cannot replay. "
            f"Build the module under torch.manual_seed(seed) and take its params from funcnet.from_module(module)."
        )

    def method(self, view: View, name: str) -> Callable[..., Any]:
        module = self.template.module
        if name.startswith("__") or not callable(getattr(module, name, None)):
            raise AttributeError(f"{type(module).__name__} has no method {name!r} to run.")
        return partial(self._run, view, name)

    def forward(self, p: View, *inputs: Any, **kwargs: Any) -> Any:
        return self._run(p, None, *inputs, **kwargs)

    def _run(self, p: View, method: str | None, /, *inputs: Any, **kwargs: Any) -> Any:
        call, path = call_and_path(p)
        flags: Flags = call.train if isinstance(call.train, bool) else self._flags(call.train, path)
        buffers = getattr(p, "_buffers", EMPTY_TREE)  # the call's own, made for writing
        inputs, kwargs = copy_inputs(inputs, kwargs)
        if flags is not False and buffers and (under_vmap() or torch.compiler.is_compiling()):
            _mapped(buffers, tensors_in((p._params, inputs, kwargs)))
        if torch.compiler.is_compiling():
            return self._traced(p, call, flags, method, inputs, kwargs)
        lease = self.template.take(flags)
        lease.fill(p._params, buffers)
        module = lease.module
        run = module if method is None else getattr(module, method)
        if call.rng is None or (type(call.rng) is Stream and call.rng.is_global):
            output = run(*inputs, **kwargs)
        else:
            lease.call = call
            before, call.find_place = call.find_place, partial(_running, p, lease, self.template)
            try:
                output = run(*inputs, **kwargs)
            finally:
                lease.call, call.find_place = None, before
        if not call.closed:
            lease.new_buffers(buffers)
        del module, run  # who refers to the copy besides the lease is counted
        self.template.give_back(flags, lease)
        return output

    def _traced(self, p: View, call: Call, flags: Flags, method: str | None, inputs: Any, kwargs: Any) -> Any:
        """The same for a compiler, which knows functional_call and cannot see frames."""
        _prepare(self, flags)
        template, module = self.template, self.template.compiled[flags]
        buffers = flatten(getattr(p, "_buffers", EMPTY_TREE))
        # One name for each attribute of a module, and functional_call told of no ties: it stumbles over some.
        tensors = {template.slots[path]: tensor for path, tensor in {**flatten(p._params), **buffers}.items()}
        for path in template.shortened:
            tensors[path] = tensors[path].clone()
        before, call.find_place = call.find_place, partial(_traced_at, p)
        if method is not None:
            module, prefix = _Other(module, method), "module."
            tensors = {prefix + path: tensor for path, tensor in tensors.items()}
        output = functional_call(module, tensors, inputs, kwargs, tie_weights=False)
        call.find_place = before
        prefix = "" if method is None else "module."
        for path in buffers:
            *parents, leaf = path.split(".")
            node = p._buffers
            for key in parents:
                node = node[key]
            node[leaf] = tensors[prefix + template.slots[path]]
        return output

    def _flags(self, train: Callable[[str], bool], path: str) -> tuple[bool, ...]:
        return tuple(bool(train(join(path, name))) for name in self.template.names)


class _Other(nn.Module):
    """A method of a module as the forward of another."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(self.module, self.method)(*inputs, **kwargs)


@constant_result
def _prepare(net: Wrapped, flags: Flags) -> bool:
    # What a compiler cannot trace it believes, if it is a constant; the copy itself is found on the template.
    net.template.prepare(flags)
    return True


# --- where a forward is ---


class Place:
    """A place below a view that has no view of its own: a submodule of a foreign module."""

    __slots__ = ("_name", "_up")

    def __init__(self, up: View, name: str) -> None:
        self._up = up
        self._name = name


def _running(p: View, lease: Lease, template: Template) -> Any:
    """The submodule whose call is innermost; looked up only where something draws, so others pay nothing."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code is not _RUN:
        if frame.f_code is call_impl:
            path = lease.paths.get(id(frame.f_locals["self"]))
            if path is not None:
                if template.learn(path) and lease.call is not None and lease.call.intercept is not None:
                    lease.call.intercept.found_submodule = True
                return _outside_checkpoint(frame, p, path)
        frame = frame.f_back
    return p


def _outside_checkpoint(frame: Any, p: View, path: str) -> Place:
    above = frame
    while above is not None and above.f_code is not _RUN:
        if above.f_globals.get("__name__") == "torch.utils.checkpoint":
            raise RandomnessError(
                f"{join(call_and_path(p)[1], path) or 'the module'} draws within torch.utils.checkpoint, which runs "
                f"it again in backward, after the call, with other draws. Switch checkpointing off in the module (or "
                f"its dropout), and checkpoint a function of (params, x, key) that calls the net."
            )
        above = above.f_back
    return Place(p, path)


def _traced_at(p: View) -> Any:
    return Place(p, within[-1]) if within else p


_RUN = Wrapped._run.__code__


# --- buffers ---


def _mapped(buffers: Any, given: list[Tensor]) -> None:
    """Give every buffer the batch axes of what a call was given; else vmap lets nothing batched be written to it."""
    zeros: dict[Any, Tensor] = {}
    for tensor in given:
        levels = frozenset() if torch.compiler.is_compiling() else frozenset(levels_of(tensor))
        if levels not in zeros and tensor.is_floating_point():
            zeros[levels] = tensor.detach().new_zeros(())
    _add(buffers, sum(zeros.values()))


def _add(tree: Any, zero: Any) -> None:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            _add(value, zero)
        elif value.is_floating_point():  # counters stay as they are: modules read them as numbers
            tree[key] = value + zero.to(value.dtype) if isinstance(zero, Tensor) else value


# --- first values ---


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


def _unknown(request: TensorRequest) -> Tensor:
    raise InitError("a foreign module's tensor has no known first value; take it from funcnet.from_module(module).")


UNKNOWN_VALUE = Scheme(_unknown, ())
"""First values of what a module made by code of its own."""


def _carried(request: TensorRequest, value: Carried) -> Tensor:
    if value.value.is_meta and request.device.type != "meta":
        raise InitError("the module was on the meta device, where its buffers have no values; give one under this key.")
    return value.value.to(request.device, copy=True)

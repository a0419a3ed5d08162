"""Private copies of a module, without weights, for calls to run its forward on.

A forward may leave things behind: a counter, a cache, a lazily made buffer, an advanced generator. So every copy is
looked at after its call and put back, or thrown away where that is not possible: no call sees what another left. A
copy that something still refers to after its call (a checkpoint that will run a part again in backward) stays as it is,
with the weights of that call, and is not lent again.
"""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, wraps
from typing import Any, TypeAlias

from torch import Tensor, nn

from funcnet._typing import Tree, TreeLike
from funcnet.core.internals import Call, draw_source
from funcnet.foreign._isolated_copies import holders, private, reached, without_weights
from funcnet.foreign._module_walk import named_modules
from funcnet.foreign._snapshot import Watched
from funcnet.random.internals import DROPOUT_OF_MODULES, DrawInterceptor
from funcnet.tree import join

Flags: TypeAlias = bool | tuple[bool, ...]


class Template:
    """The pristine copy of a module, and copies of it ready to be lent, by their train flags.

    Args:
        module: what to copy; it is left as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        copied = without_weights(module)
        self._take_over(copied, _extra_states(module), _shown(module, copied))

    def _take_over(self, module: nn.Module, extra_states: Mapping[str, Any], shown: str | None) -> None:
        self.module = module
        self.shown = shown
        self.extra_states = extra_states
        self.slots = _slots(module)
        self.shortened = [self.slots[join(path, "weight")] for path, below in named_modules(module) if _shortens(below)]
        self.names = [name for name, _ in named_modules(module)]
        self.compiled: dict[Flags, nn.Module] = {}
        self._ready: dict[Flags, deque[Lease]] = {}
        self.drawing: set[str] = set()  # paths of the modules seen to draw

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "extra_states": self.extra_states, "shown": self.shown}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._take_over(**state)

    @cached_property
    def _shared(self) -> set[int]:
        """What copies have in common with the pristine one: what deepcopy takes for immutable."""
        return set(reached(self.module))

    def copy(self, flags: Flags) -> nn.Module:
        """A copy of its own, in these modes."""
        module: nn.Module = private(self.module, {})
        each = [flags] * len(self.names) if isinstance(flags, bool) else flags
        for (_, below), flag in zip(named_modules(module), each, strict=True):
            below.training = flag
        return module

    def take(self, flags: Flags) -> Lease:
        """A copy that nobody else has until :meth:`give_back`."""
        try:
            return self._ready[flags].pop()
        except LookupError:
            return Lease(self.copy(flags), self._shared, self.drawing)

    def give_back(self, flags: Flags, lease: Lease) -> None:
        """Let others have it, if it is as it was."""
        if lease.restored() and lease.drawing is self.drawing:
            self._ready.setdefault(flags, deque()).append(lease)

    def learn(self, path: str) -> bool:
        """Have copies intercept what the module at a path draws; whether that is news."""
        if path in self.drawing:
            return False
        self.drawing = self.drawing | {path}
        self._ready = {}
        return True

    def prepare(self, flags: Flags) -> None:
        """Make the one copy that torch.compile traces: one, so that compiled code is found again."""
        if flags not in self.compiled:
            module = self.copy(flags)
            _tell_where(module)
            self.compiled[flags] = module


class Lease:
    """A copy lent to one call: where its tensors are, and what it was like before.

    ``torch.func.functional_call`` swaps tensors name by name, at three times the price of a layer; a private copy can
    be written to directly. It also reaches what has no name: a list of weights beside them, a closure over one.
    """

    def __init__(self, module: nn.Module, shared: set[int], drawing: set[str]) -> None:
        self.module = module
        self.drawing = drawing
        self.call: Call | None = None
        everything = [one for key, one in reached(module).items() if key not in shared]
        self.paths: dict[int, str] = {}
        for path, below in named_modules(module):
            self.paths.setdefault(id(below), path)
        self._modules = list(module.modules())
        for below in self._modules:
            if type(below) in DROPOUT_OF_MODULES and "forward" not in below.__dict__:
                below.__dict__["forward"] = _dropping(below, self)
            elif self.paths[id(below)] in drawing:
                below.__dict__["forward"] = _intercepting(below.forward, self)
        self._own = [(tensors, name, tensors[name]) for tensors, name in _named(self._modules)]
        self._elsewhere = list(_elsewhere(self._own, everything))
        self._params, self._buffers = (_plan(module, kind) for kind in ("_parameters", "_buffers"))
        self._shortened = [below._parameters for below in self._modules if _shortens(below)]
        self._recurrent = [(below, _no_weights(below)) for below in self._modules if isinstance(below, nn.RNNBase)]
        for below, names in self._recurrent:
            below.__dict__.update(names)
        self._watched = Watched(everything, {id(tensor) for _, _, tensor in self._own})
        self._counts: list[int] = []

    def _references(self) -> list[int]:
        return list(map(sys.getrefcount, self._modules))

    def fill(self, params: TreeLike, buffers: TreeLike) -> None:
        """Put the tensors of a call where the module looks for its own."""
        self._counts = self._counts or self._references()
        self._watched.count()
        _put(self._params, params)
        _put(self._buffers, buffers)
        for tensors in self._shortened:  # torch shortens rows in place, and a tied weight has other names
            given = tensors["weight"]
            own = _cloned(given)
            for others, name, _ in self._own:
                if others[name] is given:
                    others[name] = own
        for container, key, tensors, name in self._elsewhere:
            container[key] = tensors[name]

    def new_buffers(self, buffers: Tree) -> None:
        """Record what the call made of the buffers in the tree it was given."""
        _record(self._buffers, buffers)

    def restored(self) -> bool:
        """Take the tensors out again, and say whether the copy is then as it was made."""
        if self._references() != self._counts:  # someone will come back to it, and shall not write to new buffers
            for below in self._modules:
                below._buffers.update({name: _cloned(buffer) for name, buffer in below._buffers.items()})
            return False
        for container, key, tensors, name in self._elsewhere:
            if container[key] is not tensors[name]:
                return False
        for tensors, name, tensor in self._own:
            tensors[name] = tensor
        for container, key, tensors, name in self._elsewhere:
            container[key] = tensors[name]
        for below, names in self._recurrent:
            below.__dict__.update(names)
        return self._watched.put_back()


def _intercepting(forward: Callable[..., Any], lease: Lease) -> Callable[..., Any]:
    """A forward in which torch's random functions draw from the call that has the lease."""

    @wraps(forward)
    def run(*inputs: Any, **kwargs: Any) -> Any:
        call = lease.call
        if call is None or call.intercept is not None or call.find_place is None:
            return forward(*inputs, **kwargs)
        within = call.find_place
        call.intercept = DrawInterceptor(lambda: draw_source(within()))
        try:
            with call.intercept:
                return forward(*inputs, **kwargs)
        finally:
            call.intercept = None

    return run


def _dropping(module: Any, lease: Lease) -> Callable[..., Tensor]:
    """The forward of a dropout module of torch.nn, which needs no interception: half the price."""
    rule, forward = DROPOUT_OF_MODULES[type(module)], module.forward

    @wraps(forward)
    def run(input: Tensor) -> Tensor:
        call = lease.call
        if call is None or call.intercept is not None or call.find_place is None:
            return forward(input)
        within = call.find_place
        return rule(lambda: draw_source(within()), input, module.p, module.training, module.inplace)

    return run


def _named(modules: list[nn.Module]) -> Iterator[tuple[dict[str, Any], str]]:
    """The dicts and names of all params and buffers."""
    for below in modules:
        for tensors in (below._parameters, below._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    yield tensors, name


def _elsewhere(own: list[Any], everything: list[Any]) -> Iterator[tuple[Any, Any, dict[str, Any], str]]:
    """Where else a param or buffer is held: ``container[key]`` is ``tensors[name]``."""
    dicts = {id(tensors) for tensors, _, _ in own}
    names = {id(tensor): (tensors, name) for tensors, name, tensor in own}
    for one in everything:
        if isinstance(one, nn.RNNBase) or id(one) in dicts:
            continue
        for container, keys in holders(one):
            for key in keys:
                if id(container[key]) in names and not isinstance(container, tuple):
                    yield container, key, *names[id(container[key])]


Plan = tuple[list[tuple[str, dict[str, Any]]], list[tuple[str, Any]]]


def _plan(module: nn.Module, kind: str) -> Plan:
    """The names at a module with the dicts their tensors belong to, and the plans of its children that have some."""
    tensors = getattr(module, kind)
    own = [(name, tensors) for name, tensor in tensors.items() if tensor is not None]
    below = [(name, _plan(child, kind)) for name, child in module._modules.items() if child is not None]
    return own, [(name, plan) for name, plan in below if plan != ([], [])]


def _put(plan: Plan, tree: TreeLike) -> None:
    own, below = plan
    for name, tensors in own:
        tensors[name] = tree[name]
    for name, child in below:
        _put(child, tree[name])


def _record(plan: Plan, tree: Tree) -> None:
    own, below = plan
    for name, tensors in own:
        tree[name] = tensors[name]
    for name, child in below:
        _record(child, tree[name])


def _cloned(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _no_weights(module: nn.RNNBase) -> dict[str, Any]:
    """What a recurrent module keeps besides its weights: a list of them, gathered anew when one of them is another."""
    count = len(module._flat_weights_names)
    return {"_flat_weights": [None] * count, "_flat_weight_refs": [_gone] * count}


def _gone() -> None:
    """What a weak reference to something gone gives."""


def _shortens(module: nn.Module) -> bool:
    """Whether a module shortens the rows of its weight in place."""
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None


def _slots(module: nn.Module) -> dict[str, str]:
    """Every name of a tensor, and the first name of the same attribute of the same module."""
    first: dict[int, str] = {}
    slots: dict[str, str] = {}
    for path, below in named_modules(module):
        place = first.setdefault(id(below), path)
        for name in (*below._parameters, *below._buffers):
            slots[join(path, name)] = join(place, name)
    return slots


def _extra_states(module: nn.Module) -> dict[str, Any]:
    """What modules save besides tensors, by its key in the ``state_dict``."""
    return {
        join(path, EXTRA_STATE): copy.deepcopy(below.get_extra_state())
        for path, below in named_modules(module)
        if type(below).get_extra_state is not nn.Module.get_extra_state
    }


def _shown(module: nn.Module, copied: nn.Module) -> str | None:
    """The ``repr`` of a module, if it writes that itself and a copy without numbers gives another, or an error."""
    kind = type(module)
    if kind.__repr__ is nn.Module.__repr__ and kind.extra_repr is nn.Module.extra_repr:
        return None
    words = repr(module)
    try:
        return None if repr(copied) == words else words
    except (RuntimeError, ValueError, NotImplementedError):
        return words


EXTRA_STATE = "_extra_state"
"""The name under which a ``state_dict`` has what ``get_extra_state`` gave."""

within: list[str] = []
"""Where a forward is while torch.compile or torch.export traces it; in eager calls the stack of frames says it."""


def _tell_where(module: nn.Module) -> None:
    """Have a module and all below it say when they are running."""
    seen: set[int] = set()
    for path, below in named_modules(module):
        if id(below) not in seen:
            seen.add(id(below))
            below.register_forward_pre_hook(_entering(path), prepend=True)
            below.register_forward_hook(_leaving, always_call=False)


def _entering(path: str) -> Callable[..., None]:
    def enter(module: nn.Module, inputs: Any) -> None:
        within.append(path)

    return enter


def _leaving(module: nn.Module, inputs: Any, output: Any) -> None:
    within.pop()

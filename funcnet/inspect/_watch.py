"""One call, watched: every operator on its way to the kernel, and every module as it starts and ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from funcnet._torch import DispatchMode, Memory, operator_name
from funcnet._torch_functions import BY_INDEX, CONSTANT, READ_NO_VALUE, READS_A_VALUE, SET_DATA, UNFILLED
from funcnet.inspect._effect import MEANINGS, Effect
from funcnet.inspect._examples import Step, misplaced
from funcnet.inspect._operators import Draws, filled, python_state, written_by
from funcnet.inspect._origins import DRAWN, Held, Names, Origins, leaves_in, memory_of, tensors_in
from funcnet.inspect._places import Place, Places, spelled
from funcnet.inspect._versions import Versions
from funcnet.tree import join

_PASSING = ("hands on", "returns")


class Watch(DispatchMode):
    """A context in which what a module does is noted.

    Args:
        module: the module that will be called; hooks are put on it.
        origins: what it is called with.
        versions: of the same.
    """

    def __init__(self, module: nn.Module, origins: Origins, versions: Versions) -> None:
        super().__init__()
        self.places = Places(module)
        self.origins = origins
        self.versions = versions
        self.function: Any = None  # of torch, that user code or a layer called and that runs now
        self.notes: list[str] = []
        self._found: dict[tuple[str, Place], dict[str, None]] = {}
        self._outside: set[tuple[str, Memory | None]] = set()
        self._suspects: list[tuple[Place, str]] = []
        self._overwritten: list[tuple[Tensor, Tensor]] = []
        self._python_state: dict[str, Any] = {}
        for path, below in module.named_modules():
            below.register_forward_pre_hook(self._start, prepend=True, with_kwargs=True)
            below.register_forward_hook(self._end, with_kwargs=True, always_call=True)
            below.__dict__["_buffers"] = _Noting(below._buffers, partial(self._replaced, path))

    # --- what was found ---

    def effects(self) -> tuple[Effect, ...]:
        """Everything found, by path and line."""
        order = {path: index for index, path in reversed(list(enumerate(self.places.order)))}
        kinds = list(MEANINGS)
        found = sorted(
            self._found.items(),
            key=lambda item: (order[item[0][1].path], item[0][1].file, item[0][1].line, kinds.index(item[0][0])),
        )
        return tuple(
            Effect(kind, place.path, place.file, place.line, place.code, "; ".join(details))
            for (kind, place), details in found
        )

    def _report(self, kind: str, detail: str, place: Place | None = None) -> None:
        self._found.setdefault((kind, place or self.places.now()), {})[detail] = None

    def _called(self, operator: Any = None) -> str:
        """What to call an operator: the function of torch that user code or a layer called, where there is one."""
        name = getattr(self.function, "__name__", "") or operator_name(operator)
        return f"{name.strip('_')}()" if name.startswith("__") else name

    def put_back(self) -> None:
        """Undo what the call wrote to tensors from outside."""
        with torch.no_grad():
            for tensor, before in reversed(self._overwritten):
                tensor.copy_(before)

    def finish(self, output: Any) -> None:
        """Look at the output of the whole call."""
        if any(misplaced(self.versions, tensor) for tensor in leaves_in(output)):
            place, name = self._suspects[-1] if self._suspects else (Place("", *self.places.now()[1:]), "the output")
            self._report("mixes examples", f"{name} moves examples to the place of others", place)

    # --- modules ---

    def _start(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._python_draws()
        given = leaves_in((args, kwargs))
        if self.places.visits:
            self._account(given, "hands on")
        visit = self.places.enter(module)
        visit.handed.update(memory for memory in map(memory_of, given) if memory is not None)

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._python_draws()
        given = leaves_in(output)
        if self.places.visits[-1].module is module:
            self._account(given, "returns")
        self.places.leave(module)
        if self.places.visits:
            self.places.visits[-1].handed.update(memory for memory in map(memory_of, given) if memory is not None)

    def _replaced(self, path: str, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.origins.hold(value, Held("buffers", join(path, name)))
        self._report("writes buffer", f"replaces {join(path, name)}")

    def _python_draws(self) -> None:
        """Notice draws of Python's and NumPy's generators, of which the line is not known: only the module."""
        state = python_state()
        for name, now in state.items() if self.places.visits else ():
            if self._python_state.get(name) not in (None, now):
                code = type(self.places.visits[-1].module).forward.__code__
                place = Place(self.places.path, code.co_filename, code.co_firstlineno)
                self._report("draws", f"{name}, somewhere in this forward", place)
        self._python_state = state

    # --- operators ---

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(tensors_in(args, kwargs))
        if func is CONSTANT:  # a constant of the code, as torch.tensor(1.0)
            self.origins.made(given, frozenset())
        written = list(written_by(func, args, kwargs))
        if not operator_name(func).startswith(READ_NO_VALUE):
            self._account(given, self._called(func))
        for tensor in written:
            self._writes(tensor, func)
        self._reads(func, args, kwargs, given)
        step = self._step(func, args, kwargs, given, written)
        draws = Draws(given, kwargs)
        result = func(*args, **kwargs)
        drew = draws.moved()
        if drew:
            self._report("draws", self._called(func))
        new = [tensor for tensor in tensors_in(result) if not any(tensor is one for one in given)]
        self.origins.made((*new, *written), self.origins.depends(given) | (DRAWN if drew else frozenset()))
        if step is not None:
            self._compare(func, step, result, draws, drew)
        return result

    def _step(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], written: list[Tensor]) -> Step | None:
        """What to compare an operator by; None if its result is the same in all versions."""
        if operator_name(func).startswith(UNFILLED):
            self.versions.forget(written)
            return None
        return Step(self.versions, args, kwargs, written) if any(map(self.versions.has, given)) else None

    def _compare(self, func: Any, step: Step, result: Any, draws: Draws, drew: bool) -> None:
        """Notice an operator that mixes examples. Draws may depend on all values before them, and are not looked at."""
        try:
            mixture = step.compare(filled(func, result), draws.repeated(func))
            suspect = mixture is None and step.misplaces(result)
        except Exception as error:  # of an operator that does not take what it got in a version
            why = str(error).splitlines()[0]
            self.notes.append(f"examples behind {self._called(func)} at {spelled(self.places.path)}: {why}")
            self.versions.forget((*tensors_in(result), *step.written))
            return
        finally:
            draws.restore()
        if suspect:
            self._suspects.append((self.places.now(), self._called(func)))
        if mixture is not None and not drew:
            done = f"reduces the examples to shape {mixture.shape}" if mixture.reduced else "mixes them"
            self._report("mixes examples", f"{self._called(func)} {done}")

    def _account(self, tensors: list[Tensor], name: str) -> None:
        """Notice tensors that were neither given nor made in the call."""
        for tensor in tensors:
            if not self.origins.outside(tensor):
                continue
            memory = memory_of(tensor)
            key = (self.places.path, memory)
            if key in self._outside or (self.places.visits and memory in self.places.visits[-1].handed):
                continue
            self._outside.add(key)
            what = f"{self.places.name_of(tensor)} of shape {tuple(tensor.shape)}"
            self._report("reads outside tensor", f"{name} {what}" if name in _PASSING else f"{what}, by {name}")

    def _writes(self, tensor: Tensor, func: Any) -> None:
        held, name = self.origins.holder(tensor), self._called(func)
        if held is None:
            if self.origins.outside(tensor):
                self._overwritten.append((tensor, tensor.clone()))
                self._report("reads outside tensor", f"{name} writes to it")
        elif held.kind == "buffers":
            self._report("writes buffer", f"{name} writes {held.name}")
        elif held.kind == "inputs":
            self._report("mutates input", f"{name} writes {held.name}")
        else:
            self._report("mutates input", f"{name} writes the parameter {held.name}")

    def _reads(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> None:
        """Notice what takes a value out of a tensor, or has as many results as the values say."""
        mask = func in BY_INDEX
        if mask:
            given = [one for one in tensors_in(args[1]) if one.dtype in (torch.bool, torch.uint8)]
        elif torch.Tag.data_dependent_output not in func.tags and torch.Tag.dynamic_output_shape not in func.tags:
            return
        depends = self.origins.depends(given)
        if not depends:
            return
        names = _listed(depends)
        if mask:
            self._report("branches on data", f"{self._called(func)} takes as many elements as a mask of {names} says")
        elif torch.Tag.data_dependent_output in func.tags:
            self._report("branches on data", f"{self._called(func)} reads a value of {names} into Python")
        else:
            self._report("branches on data", f"the shape that {self._called(func)} gives depends on {names}")

    def reads_without_operator(self, function: Any, args: Any) -> None:
        """Notice a function of torch that no operator tells of."""
        if function in READS_A_VALUE and args and isinstance(args[0], Tensor):
            self._account([args[0]], self._called())
            depends = self.origins.depends([args[0]])
            if depends:
                self._report("branches on data", f"{self._called()} reads the values of {_listed(depends)} into Python")
        elif function == SET_DATA:
            self._writes(args[0], None)


class Functions(TorchFunctionMode):
    """A context in which a watch is told which of torch's functions runs."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outer, self.watch.function = self.watch.function, func
        try:
            self.watch.reads_without_operator(func, args)
            return func(*args, **(kwargs or {}))
        finally:
            self.watch.function = outer


class _Noting(dict[str, Any]):
    """The buffers of a module, which say when one is replaced."""

    def __init__(self, buffers: Any, note: Callable[[str, Any], None]) -> None:
        super().__init__(buffers)
        self._note = note

    def __setitem__(self, name: str, value: Any) -> None:
        old = self.get(name)
        super().__setitem__(name, value)
        if value is not old:
            self._note(name, value)


def _listed(names: Names) -> str:
    return ", ".join(sorted(names))

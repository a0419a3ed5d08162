"""One call, watched: every operator on its way to the kernel, and every module as it starts and ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from funcnet._tensors import iter_tensors
from funcnet._torch import DispatchMode, Memory, operator_name
from funcnet._torch_functions import BY_INDEX, CONSTANT, READ_NO_VALUE, READS_A_VALUE, SET_DATA, UNFILLED
from funcnet.inspect._batch_mixing import OperatorRerun, is_misplaced
from funcnet.inspect._code_locations import CallStack, Location, describe_path
from funcnet.inspect._effect_report import MEANINGS, Effect
from funcnet.inspect._example_versions import ExampleVersions
from funcnet.inspect._operator_effects import (
    Args,
    GeneratorWatch,
    Kwargs,
    iter_written_tensors,
    without_work_space,
)
from funcnet.inspect._tensor_origins import DRAWN, Names, TensorOrigins, memory_of, tensor_leaves
from funcnet.kernels.internals import find_wrong_kernel
from funcnet.random.internals import PythonGenerators
from funcnet.tree import join

_PASSED_ON = ("hands on", "returns")


class CallWatch(DispatchMode):
    """A context in which everything that a module does besides computing its output is noted.

    Args:
        module: the module that will be called; hooks are put on it.
        origins: what it is called with.
        versions: the versions of what it is called with.
    """

    def __init__(self, module: nn.Module, origins: TensorOrigins, versions: ExampleVersions) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = CallStack(module)
        self.origins = origins
        self.versions = versions
        self.torch_function: Any = None  # the function of torch that user code or a layer called and that runs now
        self.notes: list[str] = []
        self.reports_wrong_kernels = True  # not for layers of funcnet, whose gradients are right
        self._details: dict[tuple[str, Location], dict[str, None]] = {}
        self._reported_memory: set[tuple[str, Memory | None]] = set()
        self._suspects: list[tuple[Location, str]] = []
        self._overwritten: list[tuple[Tensor, Tensor]] = []
        self._generator_states: Mapping[str, object] = {}
        self._replaced_buffers: dict[str, tuple[object, list[tuple[str, Location]]]] = {}
        for path, submodule in module.named_modules():
            submodule.register_forward_pre_hook(self._on_start, prepend=True, with_kwargs=True)
            submodule.register_forward_hook(self._on_end, with_kwargs=True, always_call=True)
            submodule.__dict__["_buffers"] = _WatchedBuffers(submodule._buffers, partial(self._on_new_buffer, path))

    # --- what was found ---

    def list_effects(self) -> tuple[Effect, ...]:
        """All effects of the call, by path and line."""
        order = {path: index for index, path in reversed(list(enumerate(self.stack.order)))}
        kinds = list(MEANINGS)

        def sort_key(item: tuple[tuple[str, Location], dict[str, None]]) -> tuple[int, str, int, int]:
            (kind, location), _ = item
            return order[location.path], location.file, location.line, kinds.index(kind)

        return tuple(
            Effect(kind, location.path, location.file, location.line, location.code, "; ".join(details))
            for (kind, location), details in sorted(self._details.items(), key=sort_key)
            if details
        )

    def report_effect(self, kind: str, detail: str, location: Location | None = None) -> None:
        """Report an effect, by default at the path and line that are running."""
        self._details.setdefault((kind, location or self.stack.locate()), {})[detail] = None

    def has_reported(self, kind: str, name: str) -> bool:
        """Whether an effect of a kind is reported already that concerns something of this name."""
        details = [
            detail for (its_kind, _), its_details in self._details.items() if its_kind == kind for detail in its_details
        ]
        return any(detail.endswith(name) or f"{name} " in detail for detail in details)

    def _name_operation(self, operator: Any = None) -> str:
        """What to call an operator: the function of torch that user code or a layer called, where there is one."""
        name = getattr(self.torch_function, "__name__", "") or operator_name(operator)
        return f"{name.strip('_')}()" if name.startswith("__") else name

    def undo_writes(self) -> None:
        """Put back what the call wrote to tensors from outside."""
        with torch.no_grad():
            for tensor, before in reversed(self._overwritten):
                tensor.copy_(before)

    def check_output(self, output: object) -> None:
        """Report examples that the output of the whole call has at the place of others."""
        if any(is_misplaced(self.versions, tensor) for tensor in tensor_leaves(output)):
            if self._suspects:
                location, name = self._suspects[-1]
            else:
                location, name = Location("", *self.stack.locate()[1:]), "the output"
            self.report_effect("mixes examples", f"{name} moves examples to the place of others", location)

    # --- modules ---

    def _on_start(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        self._check_python_draws()
        tensors = tensor_leaves((args, kwargs))
        if self.stack.visits:
            self._report_outside_tensors(tensors, "hands on")
        visit = self.stack.enter(module)
        visit.handed.update(memory for memory in map(memory_of, tensors) if memory is not None)

    def _on_end(self, module: nn.Module, args: Args, kwargs: Kwargs, output: object) -> None:
        self._check_python_draws()
        tensors = tensor_leaves(output)
        if self.stack.visits[-1].module is module:
            self._report_outside_tensors(tensors, "returns")
        self.stack.leave(module)
        if self.stack.visits:
            self.stack.visits[-1].handed.update(memory for memory in map(memory_of, tensors) if memory is not None)

    def _on_new_buffer(self, path: str, name: str, old: object, new: object) -> None:
        path = join(path, name)
        original, places = self._replaced_buffers.setdefault(path, (old, []))
        detail = f"replaces {path}"
        if new is original:  # it was replaced for a while, as functional_call does
            for place in places:
                self._details[place].pop(detail, None)
            places.clear()
        else:
            places.append(("writes buffer", self.stack.locate()))
            self.report_effect("writes buffer", detail)

    def _check_python_draws(self) -> None:
        """Report draws of Python's and NumPy's generators, of which the module is known, but not the line."""
        states = PythonGenerators().read_fingerprints()
        for name, state in states.items() if self.stack.visits else ():
            if self._generator_states.get(name) not in (None, state):
                code = type(self.stack.visits[-1].module).forward.__code__
                location = Location(self.stack.path, code.co_filename, code.co_firstlineno)
                self.report_effect("draws", f"{name}, somewhere in this forward", location)
        self._generator_states = states

    # --- operators ---

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Args = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = list(iter_tensors((args, kwargs)))
        if func is CONSTANT:  # a constant of the code, as torch.tensor(1.0)
            self.origins.add_dependencies(inputs, frozenset())
        written = list(iter_written_tensors(func, args, kwargs))
        if not operator_name(func).startswith(READ_NO_VALUE):
            self._report_outside_tensors(inputs, self._name_operation(func))
        for tensor in written:
            self._report_write(tensor, func)
        self._report_branching(func, args, inputs)
        rerun = self._prepare_rerun(func, args, kwargs, inputs, written)
        generators = GeneratorWatch(inputs, kwargs)
        result = func(*args, **kwargs)
        has_drawn = generators.check_drawn()
        if has_drawn:
            self.report_effect("draws", self._name_operation(func))
        new = [tensor for tensor in iter_tensors(result) if not any(tensor is leaf for leaf in inputs)]
        dependencies = self.origins.dependencies_of(inputs) | (DRAWN if has_drawn else frozenset())
        self.origins.add_dependencies((*new, *written), dependencies)
        if rerun is not None:
            self._report_mixture(func, rerun, result, generators, has_drawn)
        return result

    def _prepare_rerun(
        self, func: Any, args: Args, kwargs: Kwargs, inputs: list[Tensor], written: list[Tensor]
    ) -> OperatorRerun | None:
        """What to run an operator again by; None if its result is the same in all versions."""
        if operator_name(func).startswith(UNFILLED):
            self.versions.discard(written)
            return None
        if any(map(self.versions.contains, inputs)):
            return OperatorRerun(self.versions, args, kwargs, written)
        return None

    def _report_mixture(
        self, func: Any, rerun: OperatorRerun, result: object, generators: GeneratorWatch, has_drawn: bool
    ) -> None:
        """Report an operator that mixes examples, unless it drew: draws may depend on all values before them."""
        try:
            mixture = rerun.find_mixture(without_work_space(func, result), generators.with_same_draws(func))
            is_suspect = mixture is None and rerun.moves_examples(result)
        except Exception as error:  # raised by an operator that does not take what it got in a version
            reason = str(error).splitlines()[0]
            path = describe_path(self.stack.path)
            self.notes.append(f"examples behind {self._name_operation(func)} at {path}: {reason}")
            self.versions.discard((*iter_tensors(result), *rerun.written))
            return
        finally:
            generators.restore()
        if is_suspect:
            self._suspects.append((self.stack.locate(), self._name_operation(func)))
        if mixture is not None and not has_drawn:
            what = f"reduces the examples to shape {mixture.shape}" if mixture.is_reduced else "mixes them"
            self.report_effect("mixes examples", f"{self._name_operation(func)} {what}")

    def _report_outside_tensors(self, tensors: list[Tensor], name: str) -> None:
        """Report tensors that were neither given to the call nor made in it, once for each module.

        Args:
            tensors: what an operator takes, or what a module hands on or returns.
            name: the name of the operator, or one of ``_PASSED_ON``.
        """
        for tensor in tensors:
            if not self.origins.is_from_outside(tensor):
                continue
            memory = memory_of(tensor)
            key = (self.stack.path, memory)
            if key in self._reported_memory or (self.stack.visits and memory in self.stack.visits[-1].handed):
                continue
            self._reported_memory.add(key)
            what = f"{self.stack.name_in_user_code(tensor)} of shape {tuple(tensor.shape)}"
            self.report_effect("reads outside tensor", f"{name} {what}" if name in _PASSED_ON else f"{what}, by {name}")

    def _report_write(self, tensor: Tensor, func: Any) -> None:
        origin, name = self.origins.find_given(tensor), self._name_operation(func)
        if origin is None:
            if self.origins.is_from_outside(tensor):
                self._overwritten.append((tensor, tensor.clone()))
                self.report_effect("reads outside tensor", f"{name} writes to it")
        elif origin.kind == "buffers":
            self.report_effect("writes buffer", f"{name} writes {origin.name}")
        elif origin.kind == "inputs":
            self.report_effect("mutates input", f"{name} writes {origin.name}")
        else:
            self.report_effect("mutates input", f"{name} writes the parameter {origin.name}")

    def _report_branching(self, func: Any, args: Args, inputs: list[Tensor]) -> None:
        """Report an operator that reads a value into Python, or whose values say how many results there are."""
        takes_mask = func in BY_INDEX
        if takes_mask:
            inputs = [tensor for tensor in iter_tensors(args[1]) if tensor.dtype in (torch.bool, torch.uint8)]
        elif torch.Tag.data_dependent_output not in func.tags and torch.Tag.dynamic_output_shape not in func.tags:
            return
        dependencies = self.origins.dependencies_of(inputs)
        if not dependencies:
            return
        names, operation = _join_names(dependencies), self._name_operation(func)
        if takes_mask:
            self.report_effect("branches on data", f"{operation} takes as many elements as a mask of {names} says")
        elif torch.Tag.data_dependent_output in func.tags:
            self.report_effect("branches on data", f"{operation} reads a value of {names} into Python")
        else:
            self.report_effect("branches on data", f"the shape that {operation} gives depends on {names}")

    def report_without_operator(self, function: Any, args: Args) -> None:
        """Report a function of torch that reads or writes a tensor without an operator that could be seen."""
        if function in READS_A_VALUE and args and isinstance(args[0], Tensor):
            self._report_outside_tensors([args[0]], self._name_operation())
            dependencies = self.origins.dependencies_of([args[0]])
            if dependencies:
                names = _join_names(dependencies)
                self.report_effect(
                    "branches on data", f"{self._name_operation()} reads the values of {names} into Python"
                )
        elif function == SET_DATA:
            self._report_write(args[0], None)

    def report_wrong_kernel(self, function: Any, args: Args, kwargs: Kwargs) -> None:
        """Report a call of a function of torch that may compute wrong numbers."""
        kernel = find_wrong_kernel(function, args, kwargs) if self.reports_wrong_kernels else None
        if kernel is not None:
            name = self._name_operation().strip("_")
            self.report_effect("wrong kernel", f"{name}: {kernel.fault} ({kernel.number}): {kernel.remedy}")


class TorchFunctionWatch(TorchFunctionMode):
    """A context in which a watch is told which of torch's functions runs."""

    def __init__(self, watch: CallWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Args = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        outer, self.watch.torch_function = self.watch.torch_function, func
        try:
            self.watch.report_without_operator(func, args)
            self.watch.report_wrong_kernel(func, args, kwargs or {})
            return func(*args, **(kwargs or {}))
        finally:
            self.watch.torch_function = outer


class _WatchedBuffers(dict[str, Any]):
    """The buffers of a module, as a dict that says when one of them is replaced."""

    def __init__(self, buffers: Mapping[str, object], on_replace: Callable[[str, object, object], None]) -> None:
        super().__init__(buffers)
        self._on_replace = on_replace

    def __setitem__(self, name: str, value: object) -> None:
        old = self.get(name)
        super().__setitem__(name, value)
        if value is not old:
            self._on_replace(name, old, value)


def _join_names(names: Names) -> str:
    return ", ".join(sorted(names))

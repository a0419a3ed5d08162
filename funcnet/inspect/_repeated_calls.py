"""State that a call keeps for the next one: a module is called twice on one copy, then on a new copy, line by line.

The second call tells whether what was kept matters; the call on the fresh copy tells which line keeps it, and whether
the output depends on anything else, such as a clock.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from funcnet._tensors import is_inexact, same_bits
from funcnet._torch import pytree
from funcnet.core.internals import TensorRecord, record_tensor
from funcnet.inspect._call_watch import CallWatch
from funcnet.inspect._code_locations import Location
from funcnet.inspect._line_trace import LineTrace
from funcnet.inspect._object_contents import is_plain
from funcnet.inspect._state_snapshot import Change, Place, StateSnapshot


class CallMaker(NamedTuple):
    """How to make a call anew, with equal weights, inputs and draws.

    Attributes:
        copy_module: returns a fresh copy of the module.
        copy_inputs: returns fresh copies of the positional and the named inputs.
        lend_generators: a context in which the global generators begin with the same numbers each time.
    """

    copy_module: Callable[[], nn.Module]
    copy_inputs: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]
    lend_generators: Callable[[], contextlib.AbstractContextManager[None]]

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """Call a module; what it prints is not shown again."""
        with self.lend_generators(), contextlib.redirect_stdout(io.StringIO()):
            return module(*args, **kwargs)


class RepeatedCalls:
    """A module that will be called again, and everything that its calls could change.

    Args:
        maker: how to make the calls.
    """

    def __init__(self, maker: CallMaker) -> None:
        self._maker = maker
        self._module = maker.copy_module()
        self._inputs = maker.copy_inputs()
        self._snapshot = StateSnapshot(self._module, name_inputs(*self._inputs))

    @contextlib.contextmanager
    def undo_changes(self) -> Iterator[None]:
        """A block after which globals, attributes of classes and the like hold what they held before."""
        try:
            yield
        finally:
            self._snapshot.restore_contents()

    def report_repeats(self, watch: CallWatch) -> None:
        """Make the calls, and report what differs.

        Args:
            watch: has watched a call of a different copy.
        """
        if not self._snapshot.is_complete:
            watch.notes.append("all that the module and its code can reach: there is too much of it")
        tensors_before = _read_tensors(self._module)
        records = self._record_tensors()
        with self.undo_changes():
            first = self._maker.call(self._module, *self._inputs)
            changes = self._snapshot.list_changes()
            self._restore_tensors(tensors_before)  # what a call does to them is reported already
            self._snapshot.restore_generators()
            try:
                difference = find_difference(first, self._maker.call(self._module, *self._maker.copy_inputs()))
            except Exception as error:
                difference = f"a second call raises {type(error).__name__}: {str(error).partition(chr(10))[0]:.120}"
            later = self._snapshot.list_changes()
        changes_later = {place: change for place, change in later.items() if place not in changes}
        trace, result_of_new_copy = self._follow_calls({**changes, **changes_later}, 2 if changes_later else 1)
        difference_of_new_copy = find_difference(first, result_of_new_copy)
        self._report_changed_tensors(watch, records)  # only now, as it undoes them, and an output may be a view of one
        for (request, location), kind in trace.requests.items():
            watch.report_effect(kind, request, location)
        for place, change in {**changes, **changes_later}.items():
            location = trace.changes.get(place) or self._locate_forward(place.owner or "")
            words = f"{change.verb} {place.describe_place(location.path)}{change.values}"
            if change.kind == "keeps state" and difference is not None and difference_of_new_copy is None:
                words += f" ({difference})"
            watch.report_effect(change.kind, words, location)
        if difference_of_new_copy is not None:
            words = difference_of_new_copy.replace("a second call", "a call of a fresh copy")
            watch.report_effect(
                "differs if repeated", f"{words}: it depends on something outside", self._locate_forward("")
            )
        elif difference is not None and all(change.kind != "keeps state" for change in changes.values()):
            words = f"{difference}: something that cannot be seen is kept"
            watch.report_effect("differs if repeated", words, self._locate_forward(""))

    def _record_tensors(self) -> list[tuple[str, TensorRecord]]:
        """The tensors of the inputs and the parameters, with their names, as they are now."""
        named = [
            (name, leaf)
            for name, value in name_inputs(*self._inputs)
            for leaf in pytree.tree_leaves(value)
            if isinstance(leaf, Tensor)
        ]
        named += [(f"the parameter {name}", param) for name, param in self._module.named_parameters()]
        return [(name, record) for name, leaf in named if (record := record_tensor(leaf, True)) is not None]

    def _report_changed_tensors(self, watch: CallWatch, records: list[tuple[str, TensorRecord]]) -> None:
        """Report what a call did to tensors that no operator shows: to memory, gradients, hooks and flags."""
        for name, record in records:
            is_reported = watch.has_reported("mutates input", name)
            for change in record.undo_changes():
                if not (is_reported and change.startswith("other ")):
                    watch.report_effect("mutates input", f"{name} has {change}", self._locate_forward(""))

    def _restore_tensors(self, before: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Give the copy the parameters and buffers that it had, with the values of a fresh copy."""
        tensors_of_new_copy = _read_tensors(self._maker.copy_module())
        for (own_dict, tensors), (_, new_tensors) in zip(before, tensors_of_new_copy, strict=True):
            own_dict.update(tensors)
            for name, tensor in tensors.items():
                if tensor is not None and not tensor.is_meta:
                    with torch.no_grad():
                        tensor.detach().copy_(new_tensors[name])

    def _follow_calls(self, changes: Mapping[Place, Change], count: int) -> tuple[LineTrace, object]:
        """Follow calls of a fresh copy, and return what the first of them returned."""
        module, inputs = self._maker.copy_module(), self._maker.copy_inputs()
        outputs: list[object] = []
        with self.undo_changes():
            holders = {change.holder for change in changes.values()}
            snapshot = StateSnapshot(module, name_inputs(*inputs), only=holders)
            trace = LineTrace(module, snapshot.make_poll())
            for index in range(count):
                with trace, contextlib.suppress(*() if index == 0 else (Exception,)):
                    outputs.append(self._maker.call(module, *(self._maker.copy_inputs() if index else inputs)))
        return trace, outputs[0]

    def _locate_forward(self, path: str) -> Location:
        """The first line of the forward of the part at a path."""
        code = getattr(type(self._module.get_submodule(path)).forward, "__code__", None)
        return Location(path, code.co_filename, code.co_firstlineno) if code is not None else Location(path, "", 0)


def _read_tensors(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The dicts in which the parts of a module hold parameters and buffers, each with what it holds now."""
    dicts = [own_dict for part in module.modules() for own_dict in (part._parameters, part._buffers)]
    return [(own_dict, dict(own_dict)) for own_dict in dicts]


def name_inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The inputs of a call, each with the name by which a report calls it."""
    positional = [(f"input {index}", value) for index, value in enumerate(args)]
    return [*positional, *((f"input {name!r}", value) for name, value in kwargs.items())]


def find_difference(first: object, second: object) -> str | None:
    """The difference between the outputs of two calls, in words; None if they are equal or cannot be compared."""
    left, left_spec = pytree.tree_flatten(first)
    right, right_spec = pytree.tree_flatten(second)
    if len(left) != len(right) or left_spec != right_spec:
        return "a second call gives an output of another structure"
    largest = 0.0
    differs = False
    for left_leaf, right_leaf in zip(left, right, strict=True):
        if isinstance(left_leaf, Tensor) and isinstance(right_leaf, Tensor):
            left_leaf, right_leaf = left_leaf.detach(), right_leaf.detach()
            if left_leaf.shape != right_leaf.shape:
                return f"a second call gives an output of shape {tuple(right_leaf.shape)}, not {tuple(left_leaf.shape)}"
            try:
                if same_bits(left_leaf, right_leaf):
                    continue
            except (NotImplementedError, RuntimeError):  # a tensor without numbers, or of a layout without equality
                continue
            differs = True
            if is_inexact(left_leaf) and is_inexact(right_leaf):
                largest = max(largest, float((left_leaf - right_leaf).abs().nan_to_num(0.0).max()))
        elif (
            is_plain(left_leaf)
            and is_plain(right_leaf)
            and left_leaf != right_leaf
            and not (left_leaf != left_leaf and right_leaf != right_leaf)
        ):
            differs = True
    if not differs:
        return None
    return f"a second call gives another output{f', by up to {largest:.3g}' if largest else ''}"

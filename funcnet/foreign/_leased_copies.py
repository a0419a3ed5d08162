"""Copies of a module, without weights, that are leased to calls; each call has one for itself.

A forward may leave things behind: a counter, a cache, a lazily made buffer, an advanced generator. So every copy is
examined after its call and put back, or thrown away where that is not possible: no call sees what another one left. A
copy that something still refers to after its call (a checkpoint that will run a part again in backward) stays as it is,
with the weights of that call, and is not leased again.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import is_
from typing import Any, TypeAlias

from torch import Tensor, nn

from funcnet._errors import TreeError
from funcnet._reachable import collect_reachable, iter_containers
from funcnet._typing import Tree, TreeLike
from funcnet.core import Net
from funcnet.core.internals import Call, copy_inner_state
from funcnet.foreign._carried_values import copy_extra_states, repr_to_keep, repr_without_numbers
from funcnet.foreign._code_words import words_in_code
from funcnet.foreign._draws_by_path import note_running_paths, wrap_drawing_forwards
from funcnet.foreign._global_settings import Setting, named_settings
from funcnet.foreign._isolated_copies import copy_without_weights, deepcopy_isolated
from funcnet.foreign._module_walk import named_modules, named_tensors
from funcnet.foreign._new_parameters import refuse_new_parameters, refuse_new_submodules
from funcnet.foreign._parameter_answers import (
    answering_class,
    as_parameter,
    list_answering_buffers,
    list_answering_params,
    refuse_ids_of_tensors,
)
from funcnet.foreign._replaced_parts import edit_modules
from funcnet.foreign._tensor_slots import (
    Plan,
    TensorReferences,
    clone_or_none,
    empty_weight_lists,
    first_names_of,
    iter_deleted,
    iter_tensor_slots,
    make_plan,
    renorms_weight,
)
from funcnet.tree import join

TrainFlags: TypeAlias = bool | tuple[bool, ...]
"""The mode of a call: one for all modules, or one for each in the order of ``named_modules``."""


class CopyPool:
    """A pristine copy of a module, and copies of that one which are ready to be leased, by their train flags.

    Args:
        module: what to copy; it is left as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        copied = copy_without_weights(module)
        refuse_ids_of_tensors(module, words_in_code(module))
        self._set_up(copied, copy_extra_states(module), repr_to_keep(module, copied))

    def _set_up(self, module: nn.Module, extra_states: Mapping[str, Any], module_repr: str | None) -> None:
        self.module = module
        self.module_repr = module_repr
        self.extra_states = extra_states
        self.first_names = first_names_of(module)
        self.renormed_weights = [
            self.first_names[join(path, "weight")]
            for path, submodule in named_modules(module)
            if renorms_weight(submodule)
        ]
        self.paths = [path for path, _ in named_modules(module)]
        self.compiled: dict[TrainFlags, nn.Module] = {}
        self._ready: dict[TrainFlags, deque[LeasedCopy]] = {}
        self.classes_when_compiled: dict[str, type[Tensor]] = {}  # of the params that answer as parameters, by name
        self._drawing_paths: set[str] = set()  # of submodules that were seen to draw

    def with_nets(self, replaced: Mapping[str, Net], nets_around: Mapping[str, Net]) -> CopyPool:
        """The pool of the module that has the twins of other nets at some paths, and wherever else it refers to them.

        Args:
            replaced: the nets by path.
            nets_around: the nets that hold any of those, by path.

        Raises:
            ConversionError: if the module refers to a tensor of a part for which the new part has none of that name,
                or has the part around it at a second path, where it is not replaced.
        """
        module = edit_modules(self.module, {path: net.twin_module() for path, net in replaced.items()})
        for path, net in nets_around.items():
            submodule = module.get_submodule(path)
            if "_funcnet_net" in submodule.__dict__:  # the module of a body, which knows what it was made of
                submodule.__dict__["_funcnet_net"] = net
        pool = object.__new__(CopyPool)
        pool._set_up(module, self.extra_states, None if self.module_repr is None else repr_without_numbers(module))
        return pool

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "extra_states": self.extra_states, "module_repr": self.module_repr}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set_up(**state)

    @cached_property
    def _shared_ids(self) -> set[int]:
        """The ids of the objects that copies share with the pristine one: those that deepcopy takes for immutable."""
        return set(collect_reachable(self.module))

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """The settings of the process that a call may change."""
        return named_settings(self.words)

    @cached_property
    def words(self) -> frozenset[str]:
        """The words in the code that a call may run."""
        return words_in_code(self.module)

    def make_copy(self, flags: TrainFlags) -> nn.Module:
        """A new copy of the module, in these modes."""
        module = deepcopy_isolated(self.module, {})
        flag_of_each = [flags] * len(self.paths) if isinstance(flags, bool) else flags
        for (_, submodule), flag in zip(named_modules(module), flag_of_each, strict=True):
            submodule.training = flag
        return module

    def lease_copy(self, flags: TrainFlags) -> LeasedCopy:
        """A copy that no other call has until :meth:`return_copy`."""
        try:
            return self._ready[flags].pop()
        except LookupError:
            return LeasedCopy(self.make_copy(flags), self._shared_ids, self._drawing_paths, self.words)

    def return_copy(self, flags: TrainFlags, leased: LeasedCopy) -> None:
        """Let other calls have a copy, if it is as it was made; else it is thrown away."""
        if leased.take_tensors_out() and leased.drawing_paths is self._drawing_paths:
            self._ready.setdefault(flags, deque()).append(leased)

    def learn_drawing_path(self, path: str) -> bool:
        """Have later copies intercept what the submodule at a path draws; returns whether the path is news."""
        if path in self._drawing_paths:
            return False
        self._drawing_paths = self._drawing_paths | {path}
        self._ready = {}
        return True

    def prepare_compiled(self, flags: TrainFlags) -> None:
        """Make the copy that torch.compile traces. There is only one, so that compiled code is found again."""
        for path, param in named_tensors(self.module, "_parameters"):
            cls = answering_class(param, self.words, is_compiled=True)
            if cls is not None:
                self.classes_when_compiled[self.first_names[path]] = cls
        if flags not in self.compiled:
            module = self.make_copy(flags)
            note_running_paths(module)
            refuse_new_parameters(module)
            self.compiled[flags] = module


class LeasedCopy:
    """A copy that is leased to one call: where its tensors are, and what it was like before.

    ``torch.func.functional_call`` swaps tensors name by name, at three times the price of a layer; a private copy can
    be written to directly. That also reaches tensors without a name: a list of weights beside them, a closure over one.
    """

    def __init__(self, module: nn.Module, shared_ids: set[int], drawing_paths: set[str], words: frozenset[str]) -> None:
        self.module = module
        self.drawing_paths = drawing_paths
        self.call: Call | None = None
        objects = [obj for key, obj in collect_reachable(module).items() if key not in shared_ids]
        self.path_by_id: dict[int, str] = {}
        for path, submodule in named_modules(module):
            self.path_by_id.setdefault(id(submodule), path)
        self.modules = list(module.modules())
        wrap_drawing_forwards(self, drawing_paths)
        refuse_new_parameters(module)
        self._children = [submodule._modules for submodule in self.modules]
        self._child_counts = list(map(len, self._children))
        self._children_before = list(chain.from_iterable(map(dict.values, self._children)))
        self._tensors = [(tensors, name, tensors[name]) for tensors, name in iter_tensor_slots(self.modules)]
        self._references = TensorReferences(self._tensors, objects) or None
        self._answering_params = list_answering_params(self.modules, words)
        self._answering_buffers = list_answering_buffers(self.modules, words)
        self._param_plan, self._buffer_plan = (make_plan(module, kind) for kind in ("_parameters", "_buffers"))
        self._renormed = [submodule._parameters for submodule in self.modules if renorms_weight(submodule)]
        self._recurrent = [
            (submodule, empty_weight_lists(submodule))
            for submodule in self.modules
            if isinstance(submodule, nn.RNNBase)
        ]
        for submodule, empty_lists in self._recurrent:
            submodule.__dict__.update(empty_lists)
        self._snapshot = Snapshot(objects, {id(tensor) for _, _, tensor in self._tensors})
        self._reference_counts: list[int] = []

    def _count_references(self) -> list[int]:
        return list(map(sys.getrefcount, self.modules))

    def _children_are_same(self) -> bool:
        return all(map(is_, chain.from_iterable(map(dict.values, self._children)), self._children_before))

    def put_tensors(self, params: TreeLike, buffers: TreeLike) -> None:
        """Put the tensors of a call where the module looks for its own."""
        self._reference_counts = self._reference_counts or self._count_references()
        self._snapshot.count_references()
        _put_by_plan(self._param_plan, params)
        _put_by_plan(self._buffer_plan, buffers)
        for renormed in self._renormed:  # torch renorms rows in place, and a tied weight has other names
            weight = renormed["weight"]
            weight_copy = clone_or_none(weight)
            for tensors, name, _ in self._tensors:
                if tensors[name] is weight:
                    tensors[name] = weight_copy
        if self._answering_params:
            self._put_answering_params()
        for buffers_of_module, name in self._answering_buffers:
            buffers_of_module[name]._is_buffer = True
        if self._references:
            self._references.put()

    def _put_answering_params(self) -> None:
        """Put aliases in the place of the params that answer as those of the module; a tied tensor has one alias."""
        aliases: dict[int, Tensor] = {}
        for tensors, name, cls in self._answering_params:
            tensor = tensors[name]
            if id(tensor) not in aliases:
                alias = aliases[id(tensor)] = as_parameter(tensor, cls)
                aliases[id(alias)] = alias
            tensors[name] = aliases[id(tensor)]

    def record_buffers(self, buffers: Tree) -> None:
        """Record the buffers as the call left them in the tree that it was given.

        Raises:
            TreeError: if the call deleted one.
        """
        try:
            _record_by_plan(self._buffer_plan, buffers)
        except KeyError:
            names = ", ".join(map(repr, iter_deleted(self._buffer_plan)))
            raise TreeError(
                f"{type(self.module).__name__} deleted its buffer {names} in the call, which is to return every buffer "
                f"that it was given. Assign zeros in place of `del`, or hold a plain attribute."
            ) from None

    def take_tensors_out(self) -> bool:
        """Take the tensors out again. Returns whether the copy is unchanged then.

        Raises:
            PurityError: if the call made a submodule that has params.
        """
        if list(map(len, self._children)) != self._child_counts or not self._children_are_same():
            refuse_new_submodules(self.module, self.path_by_id)
        if self._count_references() != self._reference_counts:
            # Something still refers to the copy; it must not write to the new buffers that the caller has.
            for module in self.modules:
                module._buffers.update({name: clone_or_none(buffer) for name, buffer in module._buffers.items()})
            return False
        if self._references and not self._references.are_unchanged():
            return False
        for tensors, name, tensor in self._tensors:
            tensors[name] = tensor
        if self._references:
            self._references.restore()
        for submodule, empty_lists in self._recurrent:
            submodule.__dict__.update(empty_lists)
        return self._snapshot.restore_objects()


# --- the tensors of a call ---


def _put_by_plan(plan: Plan, tree: TreeLike) -> None:
    slots, children = plan
    for name, tensors in slots:
        tensors[name] = tree[name]
    for name, child in children:
        _put_by_plan(child, tree[name])


def _record_by_plan(plan: Plan, tree: Tree) -> None:
    slots, children = plan
    for name, tensors in slots:
        tree[name] = tensors[name]
    for name, child in children:
        _record_by_plan(child, tree[name])


# --- whether a copy is unchanged ---


class Snapshot:
    """The contents of some objects at one moment, one level deep, by identity; so comparing with it later is cheap.

    Args:
        objects: all objects that can be reached and changed.
        exempt: ids of tensors that calls exchange.
    """

    def __init__(self, objects: Sequence[Any], exempt: set[int]) -> None:
        self._empty: list[Any] = []
        self._dicts: list[tuple[Any, list[Any], list[Any]]] = []  # each with its keys and values
        self._lists: list[list[Any]] = []
        self._others: list[tuple[Any, list[Any]]] = []
        self._tensors: list[tuple[Tensor, int]] = []  # each with its version
        self._inner_states: list[tuple[Any, Any]] = []
        self._has_iterator = False
        for obj in objects:
            if isinstance(obj, Tensor):
                if id(obj) not in exempt:
                    self._tensors.append((obj, obj._version))
            elif isinstance(obj, nn.Module):
                self._dicts.append((obj.__dict__, list(obj.__dict__), list(obj.__dict__.values())))
            elif type(obj) in (dict, OrderedDict) and obj:
                self._dicts.append((obj, list(obj), list(obj.values())))
            elif type(obj) in (dict, OrderedDict, list, set) and not obj:
                self._empty.append(obj)
            elif type(obj) is list:
                self._lists.append(obj)
            elif (state := copy_inner_state(obj)) is not None:
                self._inner_states.append((obj, state))
            elif hasattr(obj, "__next__"):
                self._has_iterator = True  # how far an iterator has come cannot be seen
            elif contents := list(_iter_contents(obj)):
                self._others.append((obj, contents))
        self._reference_counts: list[list[int]] = []
        self._filled = [*(content for content, _, _ in self._dicts), *self._lists]
        self._sizes = list(map(len, self._filled))
        self._values = list(self._current_values())

    def _current_values(self) -> Iterator[Any]:
        """All that dicts and lists hold now, in one pass: of all comparisons this is the one that costs time."""
        dicts = self._filled[: len(self._dicts)]
        return chain(chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(self._lists))

    def count_references(self) -> None:
        """Remember how many objects refer to each dict: a dict that a call handed out must not be emptied."""
        self._reference_counts = self._reference_counts or [
            [sys.getrefcount(self._empty[index]) for index in range(len(self._empty))],
            [sys.getrefcount(self._dicts[index][0]) for index in range(len(self._dicts))],
        ]

    def restore_objects(self) -> bool:
        """Put back the contents of dicts that differ, and return whether everything is now as it was."""
        if self._has_iterator or (any(self._empty) and not self._clear_filled()):
            return False
        if (list(map(len, self._filled)) != self._sizes or not self._values_are_same()) and (
            not self._restore_dicts() or not self._values_are_same()
        ):
            return False
        return (
            all(tensor._version == version for tensor, version in self._tensors)
            and all(_are_same(_iter_contents(obj), contents) for obj, contents in self._others)
            and all(copy_inner_state(obj) == state for obj, state in self._inner_states)
        )

    def _values_are_same(self) -> bool:
        return all(map(is_, self._current_values(), self._values))

    def _restore_dicts(self) -> bool:
        """Give dicts back what they held, unless somebody else holds them; returns whether all sizes are right."""
        for index, (content, keys, values) in enumerate(self._dicts):
            if len(content) != len(keys) or not all(map(is_, content.values(), values)):
                if sys.getrefcount(content) - 1 != self._reference_counts[1][index]:  # 1 is the name in this loop
                    return False
                content.clear()
                content.update(zip(keys, values, strict=True))
        return list(map(len, self._filled)) == self._sizes

    def _clear_filled(self) -> bool:
        """Empty what was empty before; returns False if somebody else holds one of them."""
        indices = [index for index, content in enumerate(self._empty) if content]
        if any(sys.getrefcount(self._empty[index]) != self._reference_counts[0][index] for index in indices):
            return False
        for index in indices:
            self._empty[index].clear()
        return True


_PLAIN_CLASSES = (int, float, complex, str, bytes, bool, type(None))


def _are_same(contents: Iterable[Any], contents_before: list[Any]) -> bool:
    contents = list(contents)
    return len(contents) == len(contents_before) and all(
        value is before or (type(value) is type(before) and isinstance(value, _PLAIN_CLASSES) and value == before)
        for value, before in zip(contents, contents_before, strict=True)
    )


def _iter_contents(value: object) -> Iterator[Any]:
    return (container[key] for container, keys in iter_containers(value) for key in keys)

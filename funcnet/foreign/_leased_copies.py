"""Copies of a module, without weights, that are leased to calls; each call has one for itself.

A forward may leave things behind: a counter, a cache, a lazily made buffer, an advanced generator. So every copy is
examined after its call and put back, or thrown away where that is not possible: no call sees what another one left. A
copy that something still refers to after its call (a checkpoint that will run a part again in backward) stays as it is,
with the weights of that call, and is not leased again.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import chain
from operator import is_
from typing import Any, TypeAlias

from torch import Tensor, nn

from funcnet._errors import TreeError
from funcnet._global_settings import Setting, named_settings
from funcnet._reachable import collect_reachable
from funcnet._torch import pytree
from funcnet._typing import Tree, TreeLike
from funcnet.core import Net
from funcnet.core.internals import Call, PossibleEffects
from funcnet.foreign._carried_values import copy_extra_states, repr_to_keep, repr_without_numbers
from funcnet.foreign._code_effects import find_possible_effects
from funcnet.foreign._code_words import words_in_code
from funcnet.foreign._compiled_state import CompiledState
from funcnet.foreign._draws_by_path import note_running_paths, wrap_drawing_forwards
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
from funcnet.foreign._snapshot import Snapshot
from funcnet.foreign._tensor_slots import (
    Reference,
    TensorReferences,
    clone_or_none,
    empty_weight_lists,
    first_names_of,
    iter_tensor_slots,
    list_references,
    renorms_weight,
)
from funcnet.kernels.internals import GUARDED_WORDS, guard_norm
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
        self.states_when_compiled: dict[TrainFlags, CompiledState] = {}
        self.references_when_compiled: dict[TrainFlags, list[Reference]] = {}
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

    @cached_property
    def effects(self) -> PossibleEffects:
        """What the forward may do besides computing its output."""
        return find_possible_effects(self.module)

    @cached_property
    def calls_wrong_kernels(self) -> bool:
        """Whether the code of the module calls functions of torch that are wrong for some layouts."""
        attributes = {name for submodule in self.module.modules() for name in (*vars(submodule), *submodule._modules)}
        return not GUARDED_WORDS.isdisjoint(self.words - attributes)

    @cached_property
    def only_computes(self) -> bool:
        """Whether the forward is known to do nothing but compute."""
        effects = self.effects
        is_guarded = self.settings or self.calls_wrong_kernels
        return not (effects.changes_module or effects.writes_in_place or effects.draws or is_guarded)

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
            try:
                self._ready[flags].append(leased)
            except KeyError:
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
            self.references_when_compiled[flags] = list_references(module, self.words)
            self.states_when_compiled[flags] = CompiledState(module, self.words, self.effects.writes_in_place)
            self.compiled[flags] = module


class TensorPlan:
    """Where the params or the buffers of a module are, in the order of its tree: made once, used in every call.

    Args:
        module: the module.
        kind: ``"_parameters"`` or ``"_buffers"``.
    """

    __slots__ = ("_branches", "_leaves", "_names", "_tensors")

    def __init__(self, module: nn.Module, kind: str) -> None:
        self._tensors: dict[str, Any] = getattr(module, kind)
        self._names = [name for name, tensor in self._tensors.items() if tensor is not None]
        plans = [(name, TensorPlan(child, kind)) for name, child in module._modules.items() if child is not None]
        self._branches: list[tuple[str, TensorPlan]] = [
            (name, plan) for name, plan in plans if plan._leaves or plan._branches
        ]
        self._leaves: list[
            tuple[str, dict[str, Any], list[str]]
        ] = [  # children that have tensors and no children with any, which are the most
            (name, plan._tensors, plan._names)
            for name, plan in plans
            if plan._names and not (plan._leaves or plan._branches)
        ]

    def __bool__(self) -> bool:
        return bool(self._names or self._leaves or self._branches)

    def put(self, tree: TreeLike) -> None:
        """Put the tensors of a tree where the module looks for its own."""
        tensors = self._tensors
        for name in self._names:
            tensors[name] = tree[name]
        for child_name, tensors, names in self._leaves:
            subtree = tree[child_name]
            for name in names:
                tensors[name] = subtree[name]
        for child_name, branch in self._branches:
            branch.put(tree[child_name])

    def record(self, tree: Tree) -> None:
        """Record the tensors that the module has now in a tree.

        Raises:
            KeyError: if the module has lost one; :meth:`iter_deleted` tells which.
        """
        tensors = self._tensors
        for name in self._names:
            tree[name] = tensors[name]
        for child_name, tensors, names in self._leaves:
            subtree = tree[child_name]
            for name in names:
                subtree[name] = tensors[name]
        for child_name, branch in self._branches:
            branch.record(tree[child_name])

    def iter_deleted(self, path: str = "") -> Iterator[str]:
        """The paths of the tensors that the module has lost."""
        for child_name, tensors, names in (("", self._tensors, self._names), *self._leaves):
            yield from (join(path, join(child_name, name)) for name in names if name not in tensors)
        for child_name, branch in self._branches:
            yield from branch.iter_deleted(join(path, child_name))


class LeasedCopy:
    """A copy that is leased to one call: where its tensors are, and what it was like before.

    ``torch.func.functional_call`` swaps tensors name by name, at three times the price of a layer; a private copy can
    be written to directly. That also reaches tensors without a name: a list of weights beside them, a closure over one.
    """

    def __init__(self, module: nn.Module, shared_ids: set[int], drawing_paths: set[str], words: frozenset[str]) -> None:
        self.module = module
        self.drawing_paths = drawing_paths
        self.call: Call | None = None
        self._objects = [obj for key, obj in collect_reachable(module).items() if key not in shared_ids]
        self.path_by_id: dict[int, str] = {}
        for path, submodule in named_modules(module):
            self.path_by_id.setdefault(id(submodule), path)
        self.modules = list(module.modules())
        for submodule in self.modules:
            guard_norm(submodule)
        wrap_drawing_forwards(self, drawing_paths)
        refuse_new_parameters(module)
        self._children = [submodule._modules for submodule in self.modules]
        self._child_counts = list(map(len, self._children))
        self._children_before = list(chain.from_iterable(map(dict.values, self._children)))
        self._tensors = [(tensors, name, tensors[name]) for tensors, name in iter_tensor_slots(self.modules)]
        self._references = TensorReferences(self._tensors, self._objects) or None
        self._answering_params = list_answering_params(self.modules, words)
        # The aliases that stand for params in a call, each with its param; held here, so that no id is given anew.
        self._originals: dict[int, tuple[Tensor, Tensor]] = {}
        self._answering_buffers = list_answering_buffers(self.modules, words)
        self._param_plan, self._buffer_plan = TensorPlan(module, "_parameters"), TensorPlan(module, "_buffers")
        self._renormed = [submodule._parameters for submodule in self.modules if renorms_weight(submodule)]
        self._recurrent = [
            (submodule, empty_weight_lists(submodule))
            for submodule in self.modules
            if isinstance(submodule, nn.RNNBase)
        ]
        for submodule, empty_lists in self._recurrent:
            submodule.__dict__.update(empty_lists)
        self._is_watched = True
        self._snapshot: Snapshot | None = None  # made before the first call that is watched
        self._reference_counts: list[int] = []

    def _count_references(self) -> list[int]:
        return list(map(sys.getrefcount, self.modules))

    def _children_are_same(self) -> bool:
        return all(map(is_, chain.from_iterable(map(dict.values, self._children)), self._children_before))

    def put_tensors(self, params: TreeLike, buffers: TreeLike, is_watched: bool) -> None:
        """Put the tensors of a call where the module looks for its own.

        Args:
            params, buffers: the tensors.
            is_watched: whether the call may change the copy, so that it is looked at afterwards.
        """
        self._is_watched = is_watched
        if is_watched and self._snapshot is None:
            self._snapshot = Snapshot(self._objects, {id(tensor) for _, _, tensor in self._tensors})
            self._reference_counts = []  # the snapshot refers to the modules too
        self._reference_counts = self._reference_counts or self._count_references()
        if is_watched and self._snapshot is not None:
            self._snapshot.count_references()
        self._param_plan.put(params)
        if self._buffer_plan:
            self._buffer_plan.put(buffers)
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
        self._originals = {}
        for tensors, name, cls in self._answering_params:
            tensor = tensors[name]
            if id(tensor) not in aliases:
                alias = aliases[id(tensor)] = as_parameter(tensor, cls)
                aliases[id(alias)] = alias
                self._originals[id(alias)] = alias, tensor
            tensors[name] = aliases[id(tensor)]

    def replace_aliases(self, output: Any) -> Any:
        """The output of a call with the params that it was given, in the place of those that answered for them."""
        if not self._answering_params:
            return output
        return pytree.tree_map_only(Tensor, lambda tensor: self._originals.get(id(tensor), (tensor, tensor))[1], output)

    def record_buffers(self, buffers: Tree) -> None:
        """Record the buffers as the call left them in the tree that it was given.

        Raises:
            TreeError: if the call deleted one.
        """
        try:
            self._buffer_plan.record(buffers)
        except KeyError:
            names = ", ".join(map(repr, self._buffer_plan.iter_deleted()))
            raise TreeError(
                f"{type(self.module).__name__} deleted its buffer {names} in the call, which is to return every buffer "
                f"that it was given. Assign zeros in place of `del`, or hold a plain attribute."
            ) from None

    def take_tensors_out(self) -> bool:
        """Take the tensors out again. Returns whether the copy is unchanged then.

        Raises:
            PurityError: if the call made a submodule that has params.
        """
        if self._is_watched and (list(map(len, self._children)) != self._child_counts or not self._children_are_same()):
            refuse_new_submodules(self.module, self.path_by_id)
        if self._count_references() != self._reference_counts:
            # Something still refers to the copy; it must not write to the new buffers that the caller has.
            for module in self.modules:
                module._buffers.update({name: clone_or_none(buffer) for name, buffer in module._buffers.items()})
            return False
        if self._references and not self._references.are_unchanged():
            return False
        self._originals = {}
        for tensors, name, tensor in self._tensors:
            tensors[name] = tensor
        if self._references:
            self._references.restore()
        for submodule, empty_lists in self._recurrent:
            submodule.__dict__.update(empty_lists)
        return not self._is_watched or self._snapshot is None or self._snapshot.restore_objects()

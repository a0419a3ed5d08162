"""Params, gradients and state of one step, brought together leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from funcnet._context import is_plainly_eager
from funcnet._errors import TreeError, bullet_list
from funcnet._torch import is_wrapped_by_transform, unwrap_once
from funcnet._typing import Tree, TreeLike
from funcnet.optim._leaf_batch import LeafBatch
from funcnet.tree import ABSENT, join

_MISSING: Any = object()


_Place: TypeAlias = tuple[int, Any, Any, str]
"""The number of a leaf in params, the dicts of params and state that it lies in, and its key in them."""


class Pairing:
    """The leaves that one step updates, in the order of params, and the way back from results to trees."""

    def __init__(self, params: TreeLike, grads: TreeLike, state: TreeLike) -> None:
        self._trees = (params, state)
        self._ties: list[tuple[int, _Place]] = []
        self._results: list[tuple[_Place, Tensor, Tree]] = []
        self._clear()
        self._is_plain = self._collect_plain(params, grads, state)
        if not self._is_plain:
            require_tree(params)
            self._clear()
            self._collect(params, grads, state)
        if not (self._is_plain and self._do_grads_fit()):
            problems = [*_describe_node(params, grads, state, "")]
            if problems:
                noun = "problem" if len(problems) == 1 else "problems"
                raise TreeError(
                    f"params, grads and state do not fit together: {len(problems)} {noun}{bullet_list(problems)}\n"
                    f"A step takes params, grads and state in this order. optimizer.init(params) makes a state; "
                    f"None as a gradient means that a param is not updated."
                )
        self._join_ties()

    def _clear(self) -> None:
        self._params: list[Tensor] = []
        self._grads: list[Tensor] = []
        self._entries: list[Tree] = []
        self._places: list[_Place] = []
        self._leaf_count = 0

    def batch(self) -> LeafBatch:
        """All leaves that the step updates; tied tensors count once."""
        return LeafBatch(range(len(self._params)), self._params, self._grads, self._entries)

    def _collect_plain(self, params: Any, grads: Any, state: Any) -> bool:
        """Collect leaves from dicts with the same keys; False where there is anything else, which is left to others."""
        if type(params) is not dict or type(grads) is not dict or type(state) is not dict:
            return False
        if not len(params) == len(grads) == len(state):
            return False
        for key, param in params.items():
            if key not in grads or key not in state:
                return False
            grad, entry = grads[key], state[key]
            if isinstance(param, Tensor):
                if isinstance(grad, Tensor) and type(entry) is dict:
                    self._add(param, grad, entry, params, state, key)
                elif grad is None or grad is ABSENT:
                    self._leaf_count += 1
                else:
                    return False
            elif not self._collect_plain(param, grad, entry):
                return False
        return True

    def _add(self, param: Tensor, grad: Tensor, entry: Tree, params: Any, state: Any, key: str) -> None:
        if param.is_floating_point() or param.is_complex():
            self._params.append(param)
            self._grads.append(grad)
            self._entries.append(entry)
            self._places.append((self._leaf_count, params, state, key))
        self._leaf_count += 1

    def _collect(self, params: TreeLike, grads: Any, state: Any) -> None:
        """Collect leaves from any mappings; what does not fit is left out."""
        if not isinstance(grads, Mapping):
            grads = {}
        if not isinstance(state, Mapping):
            state = {}
        for key, param in params.items():
            grad, entry = grads.get(key), state.get(key)
            if isinstance(param, Mapping):
                self._collect(param, grad, entry)
            elif isinstance(param, Tensor) and isinstance(grad, Tensor) and isinstance(entry, Mapping):
                self._add(param, grad, {**entry}, params, state, key)
            else:
                self._leaf_count += 1

    def _do_grads_fit(self) -> bool:
        """Whether all gradients have the shapes and dtypes of their params."""
        return [grad.shape for grad in self._grads] == [param.shape for param in self._params] and [
            grad.dtype for grad in self._grads
        ] == [param.dtype for param in self._params]

    def _join_ties(self) -> None:
        """Let a tensor at several paths be updated once, at the first, by the sum of its gradients."""
        owners = find_owners(self._params)
        first_indices = [at for at, owner in enumerate(owners) if owner == at]
        if len(first_indices) == len(owners):
            return
        grads = self._grads.copy()
        for at, owner in enumerate(owners):
            if owner != at:
                self._ties.append((first_indices.index(owner), self._places[at]))
                if self._grads[at] is not self._grads[owner]:
                    grads[owner] = grads[owner] + self._grads[at]
        self._params = [self._params[at] for at in first_indices]
        self._grads = [grads[at] for at in first_indices]
        self._entries = [self._entries[at] for at in first_indices]
        self._places = [self._places[at] for at in first_indices]

    def leaf_paths(self) -> tuple[str, ...]:
        """The joined paths of all leaves of params, also of those that are not updated."""
        return tuple(_iter_paths(self._trees[0], ""))

    def leaf_indices(self) -> list[int]:
        """The places of the updated leaves among all leaves."""
        return [place[0] for place in self._places]

    def format_place(self, tree: str, index: int) -> str:
        """The expression that reads an updated leaf in a tree, for messages."""
        return format_place(tree, self.leaf_paths()[self._places[index][0]])

    def put(self, batch: LeafBatch, new_params: list[Tensor]) -> None:
        """Take up the next params, and the entries, of a batch."""
        for index, param, entry in zip(batch.indices, new_params, batch.entries, strict=True):
            self._results.append((self._places[index], param, entry))
        if self._ties:
            number_by_index = {index: number for number, index in enumerate(batch.indices)}
            for owner, place in self._ties:
                if owner in number_by_index:
                    number = number_by_index[owner]
                    self._results.append((place, new_params[number], batch.entries[number]))

    def result(self, in_place: bool) -> tuple[Tree, Tree]:
        """The trees of the next params and state.

        Args:
            in_place: whether the dicts of the step may be changed and returned, and not only the tensors in them.
        """
        if in_place and self._is_plain:
            for (_, node, state_node, key), param, entry in self._results:
                node[key], state_node[key] = param, entry
            return self._trees  # type: ignore[return-value]
        results = {place[0]: (param, entry) for place, param, entry in self._results}
        return _rebuild(*self._trees, results, [0])


def _rebuild(
    params: TreeLike, state: Any, results: Mapping[int, tuple[Tensor, Tree]], counter: list[int]
) -> tuple[Tree, Tree]:
    """New trees with the results, by the numbers of the leaves; the counter has the number of the next leaf."""
    new_params: Tree = {}
    new_state: Tree = {}
    if not isinstance(state, Mapping):
        state = {}
    for key, param in params.items():
        entry = state.get(key, _MISSING)
        kind = type(param)
        if kind is dict or (kind is not Tensor and isinstance(param, Mapping)):
            new_params[key], new_state[key] = _rebuild(param, entry, results, counter)
            continue
        if counter[0] in results:
            param, entry = results[counter[0]]
        counter[0] += 1
        new_params[key] = param
        if entry is not _MISSING:
            new_state[key] = entry
    return new_params, new_state


def _iter_paths(tree: TreeLike, prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from _iter_paths(value, path)
        else:
            yield path


def find_owners(tensors: Sequence[Tensor]) -> Sequence[int]:
    """For each tensor the index of the first tensor with the same memory, shape and strides, also inside transforms."""
    if torch.compiler.is_compiling():
        return _find_owners_by_identity(tensors)
    if is_plainly_eager() and len({tensor.data_ptr() for tensor in tensors}) == len(tensors):
        return range(len(tensors))
    owner_by_memory: dict[Any, int] = {}
    return [owner_by_memory.setdefault(_memory_key(tensor), index) for index, tensor in enumerate(tensors)]


def _memory_key(tensor: Tensor) -> Any:
    """A key that is equal for tensors with the same memory, shape and strides, also inside transforms."""
    while is_wrapped_by_transform(tensor):
        tensor = unwrap_once(tensor)
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # fake tensors and the like have no memory
        return id(tensor)
    return (address, tensor.shape, tensor.stride()) if address else id(tensor)


def _find_owners_by_identity(tensors: Sequence[Tensor]) -> list[int]:
    """The same in compiled code, where a guard on the id of a tensor would fail with each new tensor."""
    owners: list[int] = []
    indices_by_shape: dict[Any, list[int]] = {}
    for index, tensor in enumerate(tensors):
        indices = indices_by_shape.setdefault(tuple(tensor.shape), [])
        owner = index
        for earlier in indices:
            if tensors[earlier] is tensor:
                owner = earlier
        if owner == index:
            indices.append(index)
        owners.append(owner)
    return owners


def _describe_node(params: TreeLike, grads: Any, state: Any, prefix: str) -> list[str]:
    """One line for each gradient and state entry that does not fit its param."""
    lines: list[str] = []
    for name, tree in (("grads", grads), ("state", state)):
        if name == "grads" and (tree is None or tree is ABSENT):
            continue
        if not isinstance(tree, Mapping):
            lines.append(f"mis-typed   {format_place(name, prefix)}: expected a dict, got {describe(tree)}")
        else:
            lines += [
                f"extra       {format_place(name, join(prefix, key))}: there is no such param"
                for key, value in tree.items()
                if key not in params and value != {}
            ]
    if lines and any(line.startswith("mis-typed") for line in lines):
        return lines
    for key, param in params.items():
        path = join(prefix, key)
        grad = None if grads is None or grads is ABSENT else grads.get(key, _MISSING)
        entry = state.get(key, _MISSING)
        if isinstance(param, Mapping):
            missing = [name for name, value in (("grads", grad), ("state", entry)) if value is _MISSING]
            if param:
                lines += [
                    f"missing     {format_place(name, path)}: expected a dict, as params have" for name in missing
                ]
            if not missing:
                lines += _describe_node(param, grad, entry, path)
        else:
            lines += _describe_leaf(param, grad, entry, path)
    return lines


def _describe_leaf(param: Any, grad: Any, entry: Any, path: str) -> list[str]:
    lines: list[str] = []
    if param is ABSENT or param is None:
        if isinstance(grad, Tensor):
            lines.append(f"extra       {format_place('grads', path)}: the param is {param!r}")
        return lines
    if not isinstance(param, Tensor):
        return [f"mis-typed   {format_place('params', path)}: expected a tensor, got {describe(param)}"]
    if grad is _MISSING:
        lines.append(f"missing     {format_place('grads', path)}: expected shape {tuple(param.shape)}, or None")
    elif isinstance(grad, Tensor):
        if grad.shape != param.shape:
            lines.append(
                f"mis-shaped  {format_place('grads', path)}: expected {tuple(param.shape)}, got {tuple(grad.shape)}"
            )
        if grad.dtype != param.dtype:
            lines.append(f"mis-typed   {format_place('grads', path)}: expected {param.dtype}, got {grad.dtype}")
    elif grad is not None and grad is not ABSENT:
        lines.append(f"mis-typed   {format_place('grads', path)}: expected a tensor, got {describe(grad)}")
    if entry is _MISSING or (entry is ABSENT and isinstance(grad, Tensor)):
        lines.append(f"missing     {format_place('state', path)}: expected a dict of this param's state")
    elif entry is not ABSENT and not isinstance(entry, Mapping):
        lines.append(f"mis-typed   {format_place('state', path)}: expected a dict, got {describe(entry)}")
    return lines


def format_place(tree: str, path: str) -> str:
    """The expression that reads a path in a tree, for messages."""
    return tree + "".join(f"[{key!r}]" for key in path.split(".") if key)


def require_tree(params: object) -> None:
    """Refuse what is not nested dicts, as ``module.parameters()``.

    Raises:
        TypeError: says how to come by params.
    """
    if not isinstance(params, Mapping):
        raise TypeError(
            f"params are nested dicts of tensors, and this is {describe(params)}. A net makes them, by "
            f"net.init(rng), and of a module they are the second of fn.from_module(module)."
        )


def describe(value: object) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(repr, [*value][:4]))}" if value else "an empty dict"
    if isinstance(value, torch.nn.Module):
        return f"the module {type(value).__name__}"
    return f"{type(value).__name__} {' '.join(repr(value).split()):.60}"

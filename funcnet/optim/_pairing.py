"""Params, gradients and state of one step, brought together leaf by leaf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact
from funcnet._torch import is_wrapped_by_transform, unwrap_once
from funcnet._typing import Tree, TreeLike
from funcnet.tree import ABSENT, join

_MISSING: Any = object()


class Pairing:
    """The leaves that one step updates, in the order of params, and the trees that take up the results.

    Attributes:
        paths: joined paths of all leaves of params, also of those that are not updated.
        indices: the place of each updated leaf in ``paths``.
        params, grads, entries: tensors, gradients and state entries of the updated leaves.
        new_params, new_state: the trees of the result, so far with what the step does not change.
    """

    def __init__(self, params: TreeLike, grads: TreeLike, state: TreeLike) -> None:
        self.paths: list[str] = []
        self.indices: list[int] = []
        self.params: list[Tensor] = []
        self.grads: list[Tensor] = []
        self.entries: list[Mapping[str, Any]] = []
        self._places: list[tuple[Tree, Tree, str]] = []
        self._ties: list[tuple[int, tuple[Tree, Tree, str]]] = []
        self._has_misfits = False
        self.new_params, self.new_state = self._visit(params, grads, state, "")
        if self._has_misfits:
            problems = [*_describe_node(params, grads, state, "")]
            if problems:
                noun = "problem" if len(problems) == 1 else "problems"
                raise TreeError(
                    f"params, grads and state do not fit together: {len(problems)} {noun}{bullet_list(problems)}\n"
                    f"optimizer.init(params) makes a state; None as a gradient means that a param is not updated."
                )
        self._join_ties()

    def _visit(self, params: TreeLike, grads: Any, state: Any, prefix: str) -> tuple[Tree, Tree]:
        new_params: Tree = {}
        new_state: Tree = {}
        if grads is None or grads is ABSENT:
            grads = dict.fromkeys(params)
        elif len(grads) != len(params):
            self._has_misfits = True
        if len(state) != len(params):
            self._has_misfits = True
        for key, param in params.items():
            path = f"{prefix}.{key}" if prefix else key
            grad, entry = grads.get(key, _MISSING), state.get(key, _MISSING)
            if isinstance(param, Mapping):
                if not isinstance(entry, Mapping) or not (isinstance(grad, Mapping) or grad is None or grad is ABSENT):
                    self._has_misfits = self._has_misfits or bool(param)
                    continue
                new_params[key], new_state[key] = self._visit(param, grad, entry, path)
                continue
            self.paths.append(path)
            new_params[key] = param
            if entry is not _MISSING:
                new_state[key] = entry
            if isinstance(param, Tensor) and isinstance(grad, Tensor) and type(entry) is dict:
                if grad.shape != param.shape or grad.dtype != param.dtype:
                    self._has_misfits = True
                elif is_inexact(param):
                    self.indices.append(len(self.paths) - 1)
                    self.params.append(param)
                    self.grads.append(grad)
                    self.entries.append(entry)
                    self._places.append((new_params, new_state, key))
            elif isinstance(param, Tensor):
                self._has_misfits = self._has_misfits or not (grad is None or grad is ABSENT)
            elif not (param is None or param is ABSENT) or isinstance(grad, Tensor):
                self._has_misfits = True
        return new_params, new_state

    def _join_ties(self) -> None:
        """Let a tensor at several paths be updated once, at the first, by the sum of its gradients."""
        owners = find_owners(self.params)
        first_indices = [index for index, owner in enumerate(owners) if owner == index]
        if len(first_indices) == len(owners):
            return
        for index, owner in enumerate(owners):
            if owner != index:
                self._ties.append((first_indices.index(owner), self._places[index]))
                if self.grads[index] is not self.grads[owner]:
                    self.grads[owner] = self.grads[owner] + self.grads[index]
        for name in ("indices", "params", "grads", "entries", "_places"):
            values = getattr(self, name)
            setattr(self, name, [values[index] for index in first_indices])

    def put(self, params: list[Tensor], entries: list[Tree]) -> tuple[Tree, Tree]:
        """The trees of the result, with these tensors and entries at the leaves that the step updates."""
        for (new_params, new_state, key), param, entry in zip(self._places, params, entries, strict=True):
            new_params[key] = param
            new_state[key] = entry
        for index, (new_params, new_state, key) in self._ties:
            new_params[key], new_state[key] = params[index], entries[index]
        return self.new_params, self.new_state


def find_owners(tensors: Sequence[Tensor]) -> list[int]:
    """For each tensor the index of the first tensor with the same memory, shape and strides, also inside transforms."""
    if torch.compiler.is_compiling():
        return _find_owners_by_identity(tensors)
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
            lines.append(f"mis-typed   {format_place(name, prefix)}: expected a dict, got {_describe(tree)}")
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
        return [f"mis-typed   {format_place('params', path)}: expected a tensor, got {_describe(param)}"]
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
        lines.append(f"mis-typed   {format_place('grads', path)}: expected a tensor, got {_describe(grad)}")
    if entry is _MISSING or (entry is ABSENT and isinstance(grad, Tensor)):
        lines.append(f"missing     {format_place('state', path)}: expected a dict of this param's state")
    elif entry is not ABSENT and not isinstance(entry, Mapping):
        lines.append(f"mis-typed   {format_place('state', path)}: expected a dict, got {_describe(entry)}")
    return lines


def format_place(tree: str, path: str) -> str:
    """The expression that reads a path in a tree, for messages."""
    return tree + "".join(f"[{key!r}]" for key in path.split(".") if key)


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"

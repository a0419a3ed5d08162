"""Nested training checkpoints as flat dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from funcnet._errors import bullet_list
from funcnet.checkpoint._errors import CheckpointError
from funcnet.checkpoint._pickles._numpy_objects import read_array
from funcnet.checkpoint._pickles._opaque import Opaque, iter_children, iter_parts
from funcnet.checkpoint._pickles._pickled_tensors import PickledStorage, PickledTensor
from funcnet.checkpoint._structure import ObjectNode, Structure, iter_names, join_key, make_dict_like
from funcnet.tree import ABSENT

_CONTAINER_TYPES = (Mapping, list, tuple)
_TENSOR_TYPES = (Tensor, PickledTensor, PickledStorage)
_Container: TypeAlias = "Mapping[Any, object] | Sequence[object]"
_MAX_DEPTH = 100
_MAX_UNFOLDED = 1_000_000


class FlatCheckpoint(NamedTuple):
    """Tensors and other values by name, and the structure that they come from.

    The tensors of a pickle are descriptions: a ``PickledTensor``, a ``PickledStorage``, or the object of an array.
    """

    tensors: dict[str, Any]
    values: dict[str, Any]
    structure: Structure


def flatten_checkpoint(
    tree: object, split_tensor: Callable[[Tensor], Tensor | dict[str, Any]] | None = None
) -> FlatCheckpoint:
    """The tensors and the other values of a nested structure, by joined path.

    Dicts are walked; so are lists and tuples that contain tensors, by index, and objects of a pickle that do, by
    attribute. Keys that are not strings are written as strings, as in ``optimizer.state.0.exp_avg``. An empty dict
    below the root is a value, and ``ABSENT`` is none.

    Args:
        tree: the structure.
        split_tensor: returns what stands in the place of a tensor: a tensor, or a dict of its parts.

    Raises:
        CheckpointError: if two leaves have one path, or the structure contains itself, is nested too deep, or unfolds
            into far more than it is made of.

    >>> import torch
    >>> flat = flatten_checkpoint({"model": {"w": torch.ones(2)}, "epoch": 3})
    >>> list(flat.tensors), flat.values, flat.structure
    (['model.w'], {'epoch': 3}, {'model': {'w': None}, 'epoch': None})
    """
    return _Flattening(split_tensor).flatten(tree)


class _Flattening:
    """The state of one walk through a structure."""

    def __init__(self, split_tensor: Callable[[Tensor], Tensor | dict[str, Any]] | None) -> None:
        self.split_tensor = split_tensor
        self.tensors: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.duplicates: list[str] = []
        self.survey = _ContainerSurvey()
        self.finder = _TensorFinder()
        self.names: dict[int, str] = {}
        self.visited: set[int] = set()  # objects, each of which is walked at the first place where it is

    def flatten(self, tree: object) -> FlatCheckpoint:
        self.survey.check(tree)
        structure = self._walk(tree, "", 0)
        if self.duplicates:
            raise CheckpointError(
                f"these paths each stand for two things; rename one of each:{bullet_list(self.duplicates)}"
            )
        return FlatCheckpoint(self.tensors, self.values, structure)

    def _walk(self, node: object, path: str, depth: int) -> Structure:
        if depth > 2 * _MAX_DEPTH:
            raise CheckpointError(f"its objects are nested deeper than {_MAX_DEPTH} levels.")
        if self.split_tensor is not None and isinstance(node, Tensor):
            node = self.split_tensor(node)
        is_walked = bool(node) or not path if isinstance(node, Mapping) else self.finder.has_tensors(node)
        if is_walked and isinstance(node, Mapping):
            items: dict[Any, Structure] = {}
            for key, child in node.items():
                structure = self._walk(child, join_key(path, key), depth + 1)
                if isinstance(child, Tensor) and structure is not None and "." in str(key):
                    items |= dict.fromkeys(iter_names(structure, str(key)))  # a state_dict stays flat
                else:
                    items[key] = structure
            return make_dict_like(node, items)
        if is_walked and isinstance(node, (list, tuple)):
            children = [self._walk(child, join_key(path, index), depth + 1) for index, child in enumerate(node)]
            return tuple(children) if isinstance(node, tuple) else children
        if is_walked and isinstance(node, Opaque) and not _is_tensor(node):
            return self._walk_object(node, path, depth)
        if node is ABSENT:
            return ABSENT
        if path in self.tensors or path in self.values:
            self.duplicates.append(path)
        if is_walked:
            self.tensors[path] = node
            self.names[id(node)] = path
        else:
            self.values[path] = {} if isinstance(node, Mapping) and not node else node
        return None

    def _walk_object(self, obj: Opaque, path: str, depth: int) -> ObjectNode:
        """The parts of an object that are or hold tensors."""
        node = ObjectNode(obj, self.names, {})
        if id(obj) in self.visited:
            return node
        self.visited.add(id(obj))
        for key, part in iter_parts(obj):
            if self.finder.has_tensors(part):
                self.survey.check(part)
                free_key = key
                while free_key in node:
                    free_key += "_"
                node[free_key] = self._walk(part, join_key(path, free_key), depth + 1)
        return node


def _is_tensor(value: object) -> bool:
    return isinstance(value, _TENSOR_TYPES) or (isinstance(value, Opaque) and read_array(value) is not None)


class _TensorFinder:
    """Tells which containers and objects hold tensors, at any depth. It visits each of them once."""

    def __init__(self) -> None:
        self._has_tensors: dict[int, bool] = {}
        self._alive: list[object] = []  # so that no other object gets the id of one of them

    def has_tensors(self, value: object) -> bool:
        """Whether a value is a tensor, or holds some."""
        if not isinstance(value, (*_CONTAINER_TYPES, Opaque)):
            return isinstance(value, _TENSOR_TYPES)
        if id(value) not in self._has_tensors:
            self._explore(value)
        return self._has_tensors[id(value)]

    def _explore(self, root: object) -> None:
        holders: list[int] = []
        owners: dict[int, list[int]] = {}  # of a container or object: what holds it
        pending: list[object] = [root]
        while pending:
            node = pending.pop()
            key = id(node)
            if key in self._has_tensors:
                continue
            children = list(iter_children(node))
            self._alive += (node, children)
            self._has_tensors[key] = False
            if isinstance(node, Opaque) and _is_tensor(node):
                holders.append(key)
            for child in children:
                if isinstance(child, _TENSOR_TYPES) or self._has_tensors.get(id(child)):
                    holders.append(key)
                elif isinstance(child, (*_CONTAINER_TYPES, Opaque)):
                    owners.setdefault(id(child), []).append(key)
                    pending.append(child)
        while holders:
            key = holders.pop()
            if not self._has_tensors[key]:
                self._has_tensors[key] = True
                holders += owners.get(key, ())


class _Contents(NamedTuple):
    """What a value contains, itself included: how many values, in how many levels."""

    size: int
    depth: int


class _ContainerSurvey:
    """A check of dicts, lists and tuples, made once for each.

    A pickle of a few bytes can name one list in another so often, and that one in a third, that no walk through all of
    them would end. Such a structure is refused here, before anything walks it.
    """

    def __init__(self) -> None:
        # A container is stored with its children, so that it lives on and no other object gets its id.
        self._opened: dict[int, tuple[_Container, list[object]]] = {}
        self._contents: dict[int, _Contents] = {}
        self._references = 0

    def check(self, node: object) -> None:
        """Refuse a value that cannot be walked through.

        Raises:
            CheckpointError: if it holds itself, is nested too deep or unfolds into too much.
        """
        if not isinstance(node, _CONTAINER_TYPES):
            return
        stack: list[_Container] = [node]
        while stack:
            key = id(stack[-1])
            if key in self._contents:
                stack.pop()
            elif key in self._opened:
                self._close_container(stack.pop())
            else:
                stack += self._open_container(stack[-1])

    def _open_container(self, node: _Container) -> list[_Container]:
        """Note the children of a container; returns those that have to be surveyed before it."""
        children = list(node.values()) if isinstance(node, Mapping) else list(node)
        self._references += len(children)
        containers = [child for child in children if isinstance(child, _CONTAINER_TYPES)]
        self._opened[id(node)] = node, children
        if any(id(child) in self._opened and id(child) not in self._contents for child in containers):
            raise CheckpointError("a list or dict in it holds itself.")
        return [child for child in containers if id(child) not in self._contents]

    def _close_container(self, node: _Container) -> None:
        """Compute the contents of a container from those of its children."""
        size, depth = 1, 0
        for child in self._opened[id(node)][1]:
            contents = self._contents.get(id(child)) or _Contents(1, 0)
            size += contents.size
            depth = max(depth, contents.depth)
        if depth >= _MAX_DEPTH:
            raise CheckpointError(f"its values are nested deeper than {_MAX_DEPTH} levels.")
        if size > _MAX_UNFOLDED + 8 * self._references:
            raise CheckpointError(f"its values name each other so often that they unfold into {size:,}.")
        self._contents[id(node)] = _Contents(size, depth + 1)

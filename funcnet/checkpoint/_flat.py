"""Nested training checkpoints as flat dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from funcnet._errors import bullet_list
from funcnet.checkpoint._errors import CheckpointError
from funcnet.checkpoint._structure import Structure, is_state_dict, join_key
from funcnet.tree import ABSENT

_CONTAINER_TYPES = (Mapping, list, tuple)
_Container: TypeAlias = "Mapping[Any, object] | Sequence[object]"
_MAX_DEPTH = 100
_MAX_UNFOLDED = 1_000_000


class FlatCheckpoint(NamedTuple):
    """Tensors and other values by name, and the structure that they come from; None if there is none but the names."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    structure: Structure | None


def flatten_checkpoint(tree: object) -> FlatCheckpoint:
    """The tensors and the other values of a nested structure, by joined path.

    Dicts are walked; so are lists and tuples that contain tensors, by index. Keys that are not strings are written as
    strings, as in ``optimizer.state.0.exp_avg``. An empty dict below the root is a value, and ``ABSENT`` is none.

    Raises:
        CheckpointError: if two leaves have one path, or the structure contains itself, is nested too deep, or unfolds
            into far more than it is made of.

    >>> import torch
    >>> flat = flatten_checkpoint({"model": {"w": torch.ones(2)}, "epoch": 3})
    >>> list(flat.tensors), flat.values, flat.structure
    (['model.w'], {'epoch': 3}, {'model': {'w': None}, 'epoch': None})
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    duplicates: list[str] = []
    survey = _ContainerSurvey()
    survey.contains_tensors(tree)

    def walk(node: object, path: str) -> Structure:
        is_walked = bool(node) or not path if isinstance(node, Mapping) else survey.contains_tensors(node)
        if is_walked and isinstance(node, (Mapping, list, tuple)):
            if isinstance(node, Mapping):
                return {key: walk(child, join_key(path, key)) for key, child in node.items()}
            children = [walk(child, join_key(path, index)) for index, child in enumerate(node)]
            return tuple(children) if isinstance(node, tuple) else children
        if node is ABSENT:
            return ABSENT
        if path in tensors or path in values:
            duplicates.append(path)
        if isinstance(node, Tensor):
            tensors[path] = node
        else:
            values[path] = {} if isinstance(node, Mapping) else node
        return None

    structure = walk(tree, "")
    if duplicates:
        raise CheckpointError(f"these paths each stand for two things; rename one of each:{bullet_list(duplicates)}")
    return FlatCheckpoint(tensors, values, None if structure is None or is_state_dict(structure) else structure)


class _Contents(NamedTuple):
    """What a value contains, itself included: how many values, in how many levels, and whether there are tensors."""

    size: int
    depth: int
    has_tensors: bool


class _ContainerSurvey:
    """Which containers contain tensors, computed once for each container.

    A pickle of a few bytes can name one list in another so often, and that one in a third, that no walk through all of
    them would end. Such a structure is refused here, before anything walks it.
    """

    def __init__(self) -> None:
        # A container is stored with its children, so that it lives on and no other object gets its id.
        self._opened: dict[int, tuple[_Container, list[object]]] = {}
        self._contents: dict[int, _Contents] = {}
        self._references = 0

    def contains_tensors(self, node: object) -> bool:
        """Whether there are tensors in a value.

        Raises:
            CheckpointError: if the value cannot be walked through.
        """
        if not isinstance(node, _CONTAINER_TYPES):
            return isinstance(node, Tensor)
        stack: list[_Container] = [node]
        while stack:
            key = id(stack[-1])
            if key in self._contents:
                stack.pop()
            elif key in self._opened:
                self._close_container(stack.pop())
            else:
                stack += self._open_container(stack[-1])
        return self._contents[id(node)].has_tensors

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
        size, depth, has_tensors = 1, 0, False
        for child in self._opened[id(node)][1]:
            contents = self._contents.get(id(child)) or _Contents(1, 0, isinstance(child, Tensor))
            size += contents.size
            depth = max(depth, contents.depth)
            has_tensors = has_tensors or contents.has_tensors
        if depth >= _MAX_DEPTH:
            raise CheckpointError(f"its values are nested deeper than {_MAX_DEPTH} levels.")
        if size > _MAX_UNFOLDED + 8 * self._references:
            raise CheckpointError(f"its values name each other so often that they unfold into {size:,}.")
        self._contents[id(node)] = _Contents(size, depth + 1, has_tensors)

"""Nested training checkpoints as flat dicts, and plain values as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from funcnet._errors import bullet_list
from funcnet.checkpoint._errors import CheckpointError

_CONTAINERS = (Mapping, list, tuple)
_DEEPEST = 100
_UNFOLDED = 1_000_000


def flatten_all(tree: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and other values of a nested structure by joined path.

    Dicts are walked; so are lists and tuples that hold tensors, by index. Keys that are no strings are written as
    strings, as ``optimizer.state.0.exp_avg``.

    Raises:
        CheckpointError: if two leaves have one path, or the structure holds itself, is nested too deep, or unfolds into
            far more than it is made of.

    >>> import torch
    >>> tensors, values = flatten_all({"model": {"w": torch.ones(2)}, "epoch": 3})
    >>> list(tensors), values
    (['model.w'], {'epoch': 3})
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    twice: list[str] = []
    holding = _Holding()
    holding.tensors(tree)

    def walk(node: Any, path: str) -> None:
        if isinstance(node, Mapping) or (isinstance(node, (list, tuple)) and holding.tensors(node)):
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            for key, child in items:
                walk(child, f"{path}.{key}" if path else str(key))
            return
        if path in tensors or path in values:
            twice.append(path)
        (tensors if isinstance(node, Tensor) else values)[path] = node

    walk(tree, "")
    if twice:
        raise CheckpointError(f"these paths each stand for two things; rename one of each:{bullet_list(twice)}")
    return tensors, values


class _Holding:
    """Which containers hold tensors, asked of each once: a pickle of some bytes can name one list in another so often,
    and that one in the next, that nobody could walk through them all.
    """

    def __init__(self) -> None:
        self._opened: dict[int, tuple[Any, list[Any]]] = {}  # the containers too, so that none other has their id
        self._known: dict[int, tuple[int, int, bool]] = {}  # how many leaves and containers, how deep, with tensors
        self._named = 0

    def tensors(self, node: Any) -> bool:
        """Whether there are tensors in it.

        Raises:
            CheckpointError: if it cannot be walked through.
        """
        if not isinstance(node, _CONTAINERS):
            return isinstance(node, Tensor)
        todo = [node]
        while todo:
            key = id(todo[-1])
            if key in self._known:
                todo.pop()
            elif key in self._opened:
                self._close(todo.pop())
            else:
                todo += self._open(todo[-1])
        return self._known[id(node)][2]

    def _open(self, node: Any) -> list[Any]:
        every = list(node.values()) if isinstance(node, Mapping) else list(node)
        self._named += len(every)
        inner = [child for child in every if isinstance(child, _CONTAINERS)]
        self._opened[id(node)] = node, every
        if any(id(child) in self._opened and id(child) not in self._known for child in inner):
            raise CheckpointError("a list or dict in it holds itself.")
        return [child for child in inner if id(child) not in self._known]

    def _close(self, node: Any) -> None:
        size, depth, tensors = 1, 0, False
        for child in self._opened[id(node)][1]:
            more, deep, some = self._known.get(id(child), (1, 0, isinstance(child, Tensor)))
            size, depth, tensors = size + more, max(depth, deep), tensors or some
        if depth >= _DEEPEST:
            raise CheckpointError(f"its values are nested deeper than {_DEEPEST} levels.")
        if size > _UNFOLDED + 8 * self._named:
            raise CheckpointError(f"its values name each other so often that they unfold into {size:,}.")
        self._known[id(node)] = size, depth + 1, tensors


def to_plain(value: Any) -> Any:
    """A value as what JSON can hold, so that :func:`from_plain` gives it back.

    Raises:
        TypeError: if JSON cannot hold it.

    >>> to_plain({"betas": (0.9, 0.95), 0: None})
    {'items': [['betas', {'tuple': [0.9, 0.95]}], [0, None]]}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [to_plain(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [to_plain(item) for item in value]}
    if isinstance(value, Mapping):
        return {"items": [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    raise TypeError(f"a {type(value).__name__}")


def from_plain(value: Any) -> Any:
    """Inverse of :func:`to_plain`.

    >>> from_plain({"items": [["betas", {"tuple": [0.9, 0.95]}], [0, None]]})
    {'betas': (0.9, 0.95), 0: None}
    """
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"tuple"}:
            return tuple(map(from_plain, value["tuple"]))
        if set(value) == {"items"}:
            return {from_plain(key): from_plain(item) for key, item in value["items"]}
        raise ValueError(f"an object with the keys {sorted(value)}")
    return value

"""Nested training checkpoints as flat dicts, and plain values as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from funcnet._errors import bullet_list
from funcnet.checkpoint._errors import CheckpointError


def flatten_all(tree: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and other values of a nested structure by joined path.

    Dicts are walked; so are lists and tuples that hold tensors, by index. Keys that are no strings are written as
    strings, as ``optimizer.state.0.exp_avg``.

    Raises:
        CheckpointError: if two leaves have one path.

    >>> import torch
    >>> tensors, values = flatten_all({"model": {"w": torch.ones(2)}, "epoch": 3})
    >>> list(tensors), values
    (['model.w'], {'epoch': 3})
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    twice: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, Mapping) or (isinstance(node, (list, tuple)) and _holds_tensors(node)):
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


def _holds_tensors(node: Any) -> bool:
    if isinstance(node, Tensor):
        return True
    if isinstance(node, Mapping):
        return any(map(_holds_tensors, node.values()))
    return isinstance(node, (list, tuple)) and any(map(_holds_tensors, node))


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

"""Values that are not tensors as JSON, for formats that store text but no Python objects."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from funcnet.checkpoint._errors import CheckpointError, truncated_list
from funcnet.checkpoint._pickles._numpy_objects import plain_value
from funcnet.checkpoint._pickles._opaque import Opaque


def encode_values(values: Mapping[str, object]) -> dict[str, Any]:
    """Values by name as what JSON can hold; :func:`decode_value` gives each of them back.

    Raises:
        CheckpointError: names the values that JSON cannot hold.
    """
    encoded: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        try:
            encoded[name] = encode_value(value)
            json.dumps(encoded[name])
        except (TypeError, ValueError, RecursionError) as error:  # noqa: PERF203  all problems are reported at once
            problems.append(f"{name}: {error}")
    if problems:
        raise CheckpointError(
            f"these values are neither tensors nor plain numbers, strings, lists or dicts:{truncated_list(problems)}\n"
            f"Pick the part that holds the tensors, or save them to a .pt file."
        )
    return encoded


def encode_value(value: object) -> Any:
    """A value as what JSON can hold; tuples and dicts are marked, so that :func:`decode_value` gives them back.

    A number or text of numpy becomes the equal one of Python.

    Raises:
        TypeError: if JSON cannot hold it.

    >>> encode_value({"betas": (0.9, 0.95), 0: None})
    {'items': [['betas', {'tuple': [0.9, 0.95]}], [0, None]]}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [encode_value(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [encode_value(item) for item in value]}
    if type(value) is OrderedDict:
        return {"ordered": [[encode_value(key), encode_value(item)] for key, item in value.items()]}
    if isinstance(value, Mapping):
        return {"items": [[encode_value(key), encode_value(item)] for key, item in value.items()]}
    if isinstance(value, Opaque):
        return plain_value(value)
    raise TypeError(f"a {type(value).__name__}")


def decode_value(encoded: object) -> Any:
    """Inverse of :func:`encode_value`.

    >>> decode_value({"items": [["betas", {"tuple": [0.9, 0.95]}], [0, None]]})
    {'betas': (0.9, 0.95), 0: None}
    """
    if isinstance(encoded, list):
        return [decode_value(item) for item in encoded]
    if isinstance(encoded, dict):
        if set(encoded) == {"tuple"}:
            return tuple(map(decode_value, encoded["tuple"]))
        if set(encoded) == {"ordered"}:
            return OrderedDict((decode_value(key), decode_value(item)) for key, item in encoded["ordered"])
        if set(encoded) == {"items"}:
            return {decode_value(key): decode_value(item) for key, item in encoded["items"]}
        raise ValueError(f"an object with the keys {sorted(encoded)}")
    return encoded


def dict_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of ``json.loads`` for files that must not have a key twice in one object.

    Raises:
        ValueError: if a key is there twice; names it where there are not too many.
    """
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        names = [name for name, _ in pairs]
        # Counting is quadratic, so it is left out where a hostile file has very many keys.
        duplicates = sorted({name for name in names if names.count(name) > 1}) if len(names) < 10_000 else []
        raise ValueError(f"a name is there twice{': ' * bool(duplicates)}{', '.join(map(repr, duplicates[:5]))}")
    return mapping

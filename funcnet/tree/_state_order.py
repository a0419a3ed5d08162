"""Params and buffers as one tree, in the order in which the module's ``state_dict`` has them."""

from __future__ import annotations

from collections.abc import Mapping

from funcnet._errors import TreeError
from funcnet._typing import Tree, TreeLike


def merge_params_and_buffers(params: TreeLike, buffers: TreeLike) -> Tree:
    """One tree of both: at every node params, then buffers, then children in the order of the module.

    >>> merge_params_and_buffers({"0": {"w": 1}, "2": {"w": 2}}, {"1": {"mean": 3}, "2": {"mean": 4}})
    {'0': {'w': 1}, '1': {'mean': 3}, '2': {'w': 2, 'mean': 4}}
    """
    clashes = [
        key
        for key in params
        if key in buffers and not (isinstance(params[key], Mapping) and isinstance(buffers[key], Mapping))
    ]
    if clashes:
        raise TreeError(f"params and buffers have different names, and both have {', '.join(map(repr, clashes))}.")
    leaves = {key: value for tree in (params, buffers) for key, value in tree.items() if not isinstance(value, Mapping)}
    children = [[key for key, value in tree.items() if isinstance(value, Mapping)] for tree in (params, buffers)]
    nodes = {
        key: merge_params_and_buffers(params.get(key, {}), buffers.get(key, {})) for key in _interleave_keys(*children)
    }
    return {**leaves, **nodes}


def _interleave_keys(first: list[str], second: list[str]) -> list[str]:
    """Keys of both lists in an order that agrees with both; numbers by size, else ``second`` fills the gaps."""
    if all(key.isdecimal() for key in (*first, *second)):
        return sorted({*first, *second}, key=int)
    merged = list(first)
    for index, key in enumerate(second):
        if key not in merged:
            before = next((merged.index(earlier) for earlier in reversed(second[:index]) if earlier in merged), -1)
            merged.insert(before + 1, key)
    return merged

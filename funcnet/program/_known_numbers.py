"""Numbers that a forward computes in the same way in every call, so that it may branch on them while it is traced."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from funcnet._torch_functions import DRAWING_NAMES

_SIZES_TRIED = (1, 2, 3, 8, 129, 4096)
"""The values of free sizes for which a number must be the same, beside those of the example inputs."""
_IN_PLACE = {operator.setitem, operator.delitem} | {
    getattr(operator, f"i{name}") for name in dir(operator) if hasattr(operator, f"i{name}")
}


def known_number(node: Node, assumes_inputs: bool) -> tuple[Any, bool] | None:
    """The number that a node of an unfinished graph computes, and whether it is that of the example inputs only.

    It is known if it comes from constants, and from free sizes that make no difference. None stands for a number that
    may be another one in another call; with ``assumes_inputs``, that of the example inputs is given. What is drawn, or
    written to in place, is never known.
    """
    sources = _sources_of(node)
    computed = {source for source in sources if source.op != "placeholder" and not _is_size(source)}
    if any(_writes_in_place(user) for source in sources for user in source.users):
        return None
    if not all(map(_is_repeatable, computed)):
        return None
    has_sizes, is_assumed = any(map(_is_size, sources)), not all(map(_is_size, sources - computed))
    if is_assumed and not assumes_inputs:
        return None
    try:
        with torch.no_grad():
            sizes = (None, *_SIZES_TRIED) if has_sizes and not is_assumed else (None,)
            numbers = {_compute(node, size, {}).item() for size in sizes}
    except Exception:  # it is not one number, or such a size is not possible
        return None
    return (numbers.pop(), is_assumed) if len(numbers) == 1 else None


def _sources_of(node: Node) -> set[Node]:
    """A node, and everything that it is computed from; nothing of how a size is read."""
    sources, waiting = {node}, [node]
    while waiting:
        source = waiting.pop()
        new = [] if _is_size(source) else [other for other in source.all_input_nodes if other not in sources]
        sources.update(new)
        waiting += new
    return sources


def _is_size(node: Node) -> bool:
    return isinstance(node.meta.get("example_value"), torch.SymInt)


def _compute(node: Node, size: int | None, values: dict[Node, Any]) -> Any:
    """What a node computes if all free sizes are ``size``, or if it is None, for the example inputs."""
    if node in values:
        return values[node]
    if _is_size(node):
        number = node.meta["example_value"].node
        values[node] = (
            number.hint if size is None else int(number.expr.subs(dict.fromkeys(number.expr.free_symbols, size)))
        )
    elif node.op == "placeholder":
        values[node] = node.meta["grapharg"].example
    else:
        args, kwargs = map_arg((node.args, node.kwargs), lambda source: _compute(source, size, values))
        function = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target
        values[node] = function(*args, **kwargs)  # type: ignore[operator]  # a function, or the name of a method
    return values[node]


def _is_repeatable(node: Node) -> bool:
    module = getattr(node.target, "__module__", None) or "torch"
    is_known = node.op in ("call_function", "call_method") and module.startswith(("torch", "_operator", "math"))
    return is_known and _name_of(node) not in DRAWING_NAMES and not _writes_in_place(node)


def _writes_in_place(node: Node) -> bool:
    name, kwargs = _name_of(node), node.kwargs
    has_name = name.endswith("_") and not name.endswith("__") and name not in dir(operator)
    return has_name or node.target in _IN_PLACE or "out" in kwargs or bool(kwargs.get("inplace"))


def _name_of(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")

"""Which tensors of the trees of a call a body may write to, and copies of them that are the call's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from funcnet._typing import Tree, TreeLike
from funcnet.core._entries import Buffer
from funcnet.core._net import Net
from funcnet.core._view import EMPTY_TREE
from funcnet.tree import join


def iter_writable_buffers(net: Net, below: bool, prefix: str = "", is_reached: bool = False) -> Iterator[str]:
    """Paths of the buffers that a body not written by funcnet may write to in place, as ``p.steps += 1`` does.

    Args:
        net: the net.
        below: whether the buffers of all parts of such a body count, as for ``p.bn.running_mean.add_(1)``.
        prefix: the path of the net.
        is_reached: whether a body around the net may write to all tensors in it.
    """
    facts = net._facts
    if facts.one_piece and not is_reached:
        return
    for name, spec in net._own_entries.items():
        if isinstance(spec, Buffer) and (is_reached or not facts.is_trusted):
            yield join(prefix, name)
    reaches_parts = is_reached or facts.reads_trees or (below and not facts.is_trusted)
    for name, child in net._children.items():
        yield from iter_writable_buffers(child, below, join(prefix, name), reaches_parts)


def copy_tree(tree: TreeLike) -> Tree:
    """Clones of all tensors, in words that the compiler can trace; it leaves out those clones that nobody writes to."""
    return {key: copy_tree(value) if isinstance(value, Mapping) else value.clone() for key, value in tree.items()}


def copy_buffers(tree: TreeLike, writable: TreeLike) -> Tree:
    """New dicts with the same tensors, and with clones of those that are writable."""
    copy = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            copy[key] = copy_buffers(value, writable.get(key, EMPTY_TREE))
        else:
            copy[key] = value.clone() if key in writable else value
    return copy

"""Which tensors in the trees of a call its body writes to, seen by version counters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from funcnet._context import can_read_numbers, unwrap_transforms
from funcnet._errors import PurityError
from funcnet._torch import lazy_clone, peek_transform
from funcnet._typing import Tree, TreeLike
from funcnet.core._entries import Buffer
from funcnet.core._input_watch import read_version
from funcnet.core._net import Net
from funcnet.tree import flatten, join, unflatten


def read_storage_id(tensor: Tensor) -> int:
    """What identifies the memory of a tensor, which an assignment to ``tensor.data`` replaces; -1 if it has no one."""
    if torch.compiler.is_compiling():
        return -1
    try:
        return unwrap_transforms(tensor).untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return -1


def read_states(tensors: list[Tensor]) -> list[tuple[int, int]]:
    """Versions and identities of the memory of some tensors; different ones later show that somebody wrote to them."""
    if peek_transform() is None and not torch.compiler.is_compiling():
        try:  # the common case, for a tenth of the time
            return [(tensor._version, tensor.untyped_storage()._cdata) for tensor in tensors]
        except (NotImplementedError, RuntimeError):
            pass
    return [(read_version(tensor), read_storage_id(tensor)) for tensor in tensors]


def compile_reader(paths: list[str]) -> Callable[[TreeLike], list[Tensor]]:
    """A function of a tree that returns the tensors at some paths."""
    variables: dict[tuple[str, ...], str] = {(): "tree"}
    lines = []
    items = []
    for path in paths:
        keys = tuple(path.split("."))
        for size in range(1, len(keys)):
            if keys[:size] not in variables:
                variables[keys[:size]] = f"tree{len(variables)}"
                lines.append(f"    {variables[keys[:size]]} = {variables[keys[: size - 1]]}[{keys[size - 1]!r}]")
        items.append(f"{variables[keys[:-1]]}[{keys[-1]!r}]")
    namespace: dict[str, Any] = {}
    exec("\n".join(["def read(tree):", *lines, f"    return [{', '.join(items)}]"]), namespace)
    read: Callable[[TreeLike], list[Tensor]] = namespace["read"]
    return read


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


def copy_params(params: TreeLike, paths: Collection[str] | None) -> Tree:
    """The params with lazy copies of those at some paths, or of all; a tied tensor stays one."""
    copies: dict[int, Tensor] = {}
    copy_tensor = lazy_clone if can_read_numbers() else Tensor.clone
    flat = flatten(params)
    for path, tensor in flat.items():
        if paths is None or path in paths:
            if id(tensor) not in copies:
                copies[id(tensor)] = copy_tensor(tensor)
            flat[path] = copies[id(tensor)]
    return unflatten(flat)


def copy_tree(tree: TreeLike) -> Tree:
    """Clones of all tensors, in words that the compiler can trace; it leaves out those clones that nobody writes to."""
    return {key: copy_tree(value) if isinstance(value, Mapping) else value.clone() for key, value in tree.items()}


def buffers_write_error(paths: list[str]) -> PurityError:
    """The error for a body that wrote to buffers of its parts where nothing had shown that it would."""
    return PurityError(
        f"the body writes in place to {_list_paths('buffers', paths)} of its parts, which belong to the caller and are "
        f"changed now. Later calls of this net have copies of them."
    )


def params_write_error(paths: list[str], are_changed: bool) -> PurityError:
    """The error for a body that wrote to params: to those of the caller, or to copies."""
    state = "which is changed now; later calls have copies" if are_changed else "none is changed"
    return PurityError(
        f"the body writes in place to {_list_paths('params', paths)}, and a call returns no new params; {state}. "
        f"Compute what it wrote outside of the call, from the params and the output, or hold it in a buffer."
    )


def _list_paths(kind: str, paths: list[str]) -> str:
    return ", ".join(f"{kind} {path!r}" for path in paths)

"""Whether a body writes to the tensors in the trees of a call: what its code shows beforehand, and what versions show.

A body whose code shows in-place operations gets copies in every call, so nothing that the caller holds can change. The
code of helpers in other files is not read; what those write to is noticed afterwards by version counters.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor

from funcnet._context import under_transform, unwrap_transforms
from funcnet._typing import TreeLike
from funcnet.core._body_functions import iter_code
from funcnet.core._input_watch import read_version

_KEYWORDS_OF_WRITES = ("out", "inplace")


def read_storage_id(tensor: Tensor) -> int:
    """What identifies the memory of a tensor, which an assignment to ``tensor.data`` replaces; -1 if it has no one."""
    if torch.compiler.is_compiling():
        return -1
    try:
        return unwrap_transforms(tensor).untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return -1


class TreeReader:
    """Reads the tensors at some paths of a tree, in order, and their versions: as fast as code that names each path.

    Args:
        paths: paths of tensors.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = list(paths)
        self._read: Callable[[TreeLike], list[Tensor]] | None = None

    def read_tensors(self, tree: TreeLike) -> list[Tensor]:
        """The tensors at the paths."""
        if self._read is None:
            self._read = _compile_reader(self.paths)
        return self._read(tree)


class TreeWatch:
    """The versions of some tensors of a tree before a call.

    Args:
        reader: reads the tensors.
        tree: where they are.
        compares_storages: whether assignments to ``tensor.data`` count, which change no version.
    """

    __slots__ = ("_reader", "_storages", "_tensors", "_versions")

    def __init__(self, reader: TreeReader, tree: TreeLike, compares_storages: bool) -> None:
        self._reader = reader
        self._tensors = reader.read_tensors(tree)
        self._storages = list(map(read_storage_id, self._tensors)) if compares_storages else None
        self._versions = _read_versions(self._tensors)

    def list_written(self) -> list[str]:
        """The paths of the tensors that were written to since."""
        versions = _read_versions(self._tensors)
        storages = None if self._storages is None else list(map(read_storage_id, self._tensors))
        if versions == self._versions and storages == self._storages:
            return []
        before = zip(self._versions, self._storages or self._versions, strict=True)
        now = zip(versions, storages or versions, strict=True)
        return [path for path, old, new in zip(self._reader.paths, before, now, strict=True) if old != new]


def _read_versions(tensors: list[Tensor]) -> list[int]:
    if not under_transform():
        try:
            return [tensor._version for tensor in tensors]
        except RuntimeError:  # an inference tensor
            pass
    return list(map(read_version, tensors))


def _compile_reader(paths: list[str]) -> Callable[[TreeLike], list[Tensor]]:
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


def shows_writes(functions: Iterable[FunctionType], method: str, to_locals: bool) -> bool:
    """Whether the code that a call may run shows in-place operations on anything that may be a tensor.

    Args:
        functions: what the code of a net consists of; methods that no other code names are left out.
        method: the name of the method that is called.
        to_locals: whether ``x += 1`` and ``x[0] = 1`` count, which write to inputs more often than to params.
    """
    codes_by_name: dict[str, list[CodeType]] = {}
    for function in functions:
        is_method = function.__qualname__.rpartition(".")[0].rpartition(".")[2] not in ("", "<locals>")
        name = function.__name__ if is_method else ""
        codes_by_name.setdefault(name, []).extend(iter_code(function))
    waiting = ["", "forward", method, "__call__", "__getattr__", "__getattribute__"]
    visited: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in visited:
            continue
        visited.add(name)
        for code in codes_by_name.get(name, ()):
            if any(_iter_writes(code, to_locals)):
                return True
            waiting += code.co_names
    return False


def _iter_writes(code: CodeType, to_locals: bool) -> Iterator[bool]:
    """For each instruction, whether it may write to a tensor in place."""
    for name in code.co_names:
        yield (name.endswith("_") and not name.endswith("__")) or name.startswith("_foreach_")
    for constant in code.co_consts:  # the names of keyword arguments are tuples among them
        yield isinstance(constant, tuple) and any(keyword in constant for keyword in _KEYWORDS_OF_WRITES)
    is_augmented = False
    for instruction in dis.get_instructions(code):
        yield to_locals and instruction.opname == "STORE_SUBSCR"
        yield is_augmented and (to_locals or instruction.opname in ("STORE_ATTR", "SWAP", "ROT_TWO"))
        is_augmented = instruction.opname.startswith("INPLACE_") or (
            instruction.opname == "BINARY_OP" and instruction.argrepr.endswith("=")
        )
        yield instruction.opname == "STORE_ATTR" and instruction.argval == "data"

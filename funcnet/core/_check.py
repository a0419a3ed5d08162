"""Trees against declarations: every misfit at once, with paths and the nearest names."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from funcnet._errors import TreeError, bullet_list
from funcnet._torch import constant_result
from funcnet._typing import Shape, TreeLike
from funcnet.tree import flatten, unflatten

if TYPE_CHECKING:
    from funcnet.core._entries import Buffer, Param
    from funcnet.core._net import Net

Structure: TypeAlias = "tuple[tuple[str, Shape, torch.dtype, Structure | None], ...]"


def misfits(expected: Mapping[str, Param | Buffer], given: Mapping[str, Any], tree: str = "") -> list[str]:
    """One line for each path that is missing, extra, mis-shaped or mis-typed.

    Args:
        expected: declarations by path.
        given: leaves by path.
        tree: name of the tree, put before each path: ``params['fc']['weight']``; else paths are joined.
    """
    if given.keys() == expected.keys() and all(_fits(spec, given[path]) for path, spec in expected.items()):
        return []  # nearly always, and in every step of a training
    missing = [path for path in expected if path not in given]
    extra = [path for path in given if path not in expected]
    lines = [
        f"missing     {_at(tree, path)}: expected shape {expected[path].shape}{_nearest(path, extra, 'given')}"
        for path in missing
    ]
    lines += [
        f"extra       {_at(tree, path)}: {_describe(given[path])}{_nearest(path, missing or expected, 'expected')}"
        for path in extra
    ]
    for path, spec in expected.items():
        if path in given:
            lines += [
                f"{line.split(' ', 1)[0]:<11} {_at(tree, path)}: {line.split(' ', 1)[1]}"
                for line in misfit(spec, given[path])
            ]
    return lines


def _fits(spec: Param | Buffer, value: Any) -> bool:
    """Whether there is no misfit, told quickly; where this says no, :func:`misfit` decides."""
    return isinstance(value, Tensor) and value.shape == spec.shape and value.dtype is (spec.dtype or torch.float32)


def fits_when_compiled(net: Net, name: str, tree: TreeLike) -> bool:
    """Whether ``params`` or ``buffers`` fit, asked in the way that a compiler guards at the least cost.

    A key that traced code iterates over is guarded in every later call, which makes a call of a net with 60 tensors
    three times as slow. So the declarations come in as a constant, and the tree is read by lengths and lookups alone.
    A no may be a false alarm (an empty dict, an absent leaf); :func:`misfits_of` decides then.
    """
    return _fits_structure(expected_structure(net, name), tree)


def _fits_structure(structure: Structure, tree: Any) -> bool:
    if not isinstance(tree, Mapping) or len(tree) != len(structure):
        return False
    for key, shape, dtype, children in structure:
        try:
            value = tree[key]
        except KeyError:
            return False
        if children is not None:
            if not _fits_structure(children, value):
                return False
        elif not isinstance(value, Tensor) or value.shape != shape or not _alike(dtype, value.dtype):
            return False
    return True


@constant_result
def expected_structure(net: Net, name: str) -> Structure:
    """The declarations of one tree of a net, nested as the tree is: (key, shape, dtype, what lies below the key)."""

    def nested(tree: TreeLike) -> Structure:
        return tuple(
            (key, (), torch.float32, nested(value))
            if isinstance(value, dict)
            else (key, value.shape, value.dtype or torch.float32, None)
            for key, value in tree.items()
        )

    return nested(unflatten(expected_of(net)[name]))


def misfit(spec: Param | Buffer, value: Any) -> Iterable[str]:
    if not isinstance(value, Tensor):
        yield f"mis-typed expected a tensor of shape {spec.shape}, got {_describe(value)}"
    elif tuple(value.shape) != spec.shape:
        yield f"mis-shaped expected {spec.shape}, got {tuple(value.shape)}{_shape_hint(spec.shape, tuple(value.shape))}"
    elif not _alike(spec.dtype or torch.float32, value.dtype):
        expected = "a floating dtype" if spec.dtype is None else str(spec.dtype)
        yield f"mis-typed expected {expected}, got {value.dtype}"


def _alike(declared: torch.dtype, given: torch.dtype) -> bool:
    """Whether one dtype will do for another: any inexact one for an inexact one, else only the same."""
    inexact = [dtype.is_floating_point or dtype.is_complex for dtype in (declared, given)]
    return all(inexact) or declared == given


def _shape_hint(expected: Any, got: tuple[int, ...]) -> str:
    if got[::-1] == expected and len(got) == 2:
        return ": the transpose"
    if got[1:] == expected:
        return f": {got[0]} stacked; map over them with torch.vmap"
    return ""


def _at(tree: str, path: str) -> str:
    return tree + "".join(f"[{key!r}]" for key in path.split(".")) if tree else repr(path)


def _describe(value: Any) -> str:
    return (
        f"tensor of shape {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else f"{type(value).__name__} {value!r:.60}"
    )


def _nearest(path: str, names: Iterable[str], which: str) -> str:
    near = get_close_matches(path, list(names), n=1, cutoff=0.5)
    return f"; nearest {which} name: {near[0]!r}" if near else ""


def expected_of(net: Net) -> dict[str, dict[str, Param | Buffer]]:
    """Declarations by path, for each tree of a net."""
    entries = list(net.entries())
    return {tree: {entry.path: entry.spec for entry in entries if entry.kind == tree} for tree in ("params", "buffers")}


def misfits_of(expected: Mapping[str, Mapping[str, Param | Buffer]], given: Mapping[str, TreeLike]) -> list[str]:
    """Every misfit of the given trees."""
    lines: list[str] = []
    for tree, leaves in given.items():
        if isinstance(leaves, Mapping) and (bad := [key for key in leaves if type(key) is not str or "." in key]):
            hint = "; a flat state_dict goes through funcnet.from_state_dict" if "." in str(bad[0]) else ""
            lines.append(f"mis-keyed   {tree}: expected nested dicts with keys of one name, got {bad[:3]}{hint}")
        elif isinstance(leaves, Mapping):
            lines += misfits(expected[tree], flatten(leaves), tree)
        else:
            lines.append(f"mis-typed   {tree}: expected a nested dict of tensors, got {type(leaves).__name__}")
    return lines


def check_trees(net: Net, params: TreeLike, buffers: TreeLike) -> list[str]:
    """Every misfit of ``params`` and ``buffers`` with a net."""
    return misfits_of(expected_of(net), {"params": params, "buffers": buffers})


def refuse(net: Net, lines: list[str]) -> TreeError:
    """The error for misfits."""
    name = net.title()
    noun = "problem" if len(lines) == 1 else "problems"
    return TreeError(
        f"params and buffers do not fit {name}: {len(lines)} {noun}{bullet_list(lines)}\n"
        f"net.init(0) gives the structure; funcnet.from_state_dict(net, sd) reads a state_dict."
    )


class Seen:
    """The trees last found to fit, recognised without keeping them alive: by identity and by their outermost leaves."""

    __slots__ = ("_ids", "_leaves", "_sizes")

    def __init__(self, expected: Mapping[str, Mapping[str, Any]], params: TreeLike, buffers: TreeLike) -> None:
        names = list(expected["params"])
        paths = [tuple(path.split(".")) for path in dict.fromkeys(names[:1] + names[-1:])]
        self._ids = (id(params), id(buffers))
        self._sizes = (len(params), len(buffers))
        self._leaves = [(path, weakref.ref(_leaf(params, path))) for path in paths]

    def same(self, params: TreeLike, buffers: TreeLike) -> bool:
        """Whether these are those trees."""
        if self._ids != (id(params), id(buffers)) or self._sizes != (len(params), len(buffers)):
            return False
        try:
            for path, ref in self._leaves:
                if ref() is not _leaf(params, path):
                    return False
        except (KeyError, TypeError):
            return False
        return True


def _leaf(tree: TreeLike, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree

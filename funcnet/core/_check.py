"""Trees against declarations: every misfit at once, with paths and the nearest names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from funcnet._errors import TreeError, bullet_list
from funcnet._tensors import is_inexact, is_tensordict
from funcnet._torch import assume_constant_result
from funcnet._typing import Shape, TreeLike
from funcnet.tree import flatten, unflatten

if TYPE_CHECKING:
    from funcnet.core._entries import Buffer, Param
    from funcnet.core._net import Net

Specs: TypeAlias = "Mapping[str, Param | Buffer]"
"""Declarations by path."""

Structure: TypeAlias = "tuple[tuple[str, Shape, torch.dtype, Structure | None], ...]"


def describe_misfits(specs: Specs, leaves: Mapping[str, object], tree: str = "") -> list[str]:
    """One line for each path that is missing, extra, mis-shaped or mis-typed.

    Args:
        specs: declarations by path.
        leaves: values by path.
        tree: name of the tree, put before each path: ``params['fc']['weight']``; else paths are joined.
    """
    missing = [path for path in specs if path not in leaves]
    extra = [path for path in leaves if path not in specs]
    lines = [
        f"missing     {_format_path(tree, path)}: expected shape {specs[path].shape}"
        f"{_nearest_name_hint(path, extra, 'given')}"
        for path in missing
    ]
    lines += [
        f"extra       {_format_path(tree, path)}: {_describe_leaf(leaves[path])}"
        f"{_nearest_name_hint(path, missing or specs, 'expected')}"
        for path in extra
    ]
    for path, spec in specs.items():
        if path in leaves:
            lines += [
                f"{line.split(' ', 1)[0]:<11} {_format_path(tree, path)}: {line.split(' ', 1)[1]}"
                for line in describe_misfit(spec, leaves[path])
            ]
    return lines


def fits_when_compiled(net: Net, name: str, tree: TreeLike) -> bool:
    """Whether ``params`` or ``buffers`` fit, asked in the way that a compiler guards at the least cost.

    A key that traced code iterates over is guarded in every later call, which makes a call of a net with 60 tensors
    three times as slow. So the declarations come in as a constant, and the tree is read by lengths and lookups alone.
    """
    return fits_structure(_constant_structure(net, name), tree)


@assume_constant_result
def _constant_structure(net: Net, name: str) -> Structure:
    return expected_structure(specs_by_tree(net)[name])


def fits_structure(structure: Structure, tree: object) -> bool:
    """Whether a tree fits its declarations, decided quickly: a training asks this of new trees in every step.

    A no may be a false alarm (an empty dict, an absent leaf); :func:`find_tree_misfits` decides then.
    """
    if type(tree) is not dict and (not isinstance(tree, Mapping) or is_tensordict(tree)):
        return False
    if len(tree) != len(structure):
        return False
    for key, shape, dtype, children in structure:
        try:
            value = tree[key]
        except KeyError:
            return False
        if children is not None:
            if not fits_structure(children, value):
                return False
        elif not (isinstance(value, Tensor) and value.shape == shape and _dtype_fits(dtype, value.dtype)):
            return False
    return True


def expected_structure(specs: Specs) -> Structure:
    """The declarations of one tree, nested as the tree is: (key, shape, dtype, structure under the key)."""

    def nest(tree: TreeLike) -> Structure:
        return tuple(
            (key, (), torch.float32, nest(value))
            if isinstance(value, dict)
            else (key, value.shape, value.dtype or torch.float32, None)
            for key, value in tree.items()
        )

    return nest(unflatten(specs))


def describe_misfit(spec: Param | Buffer, value: object) -> Iterator[str]:
    """At most one line that says how a value does not fit its declaration; the first word is the kind of misfit."""
    if not isinstance(value, Tensor):
        yield f"mis-typed expected a tensor of shape {spec.shape}, got {_describe_leaf(value)}"
    elif tuple(value.shape) != spec.shape:
        yield f"mis-shaped expected {spec.shape}, got {tuple(value.shape)}{_shape_hint(spec.sizes, tuple(value.shape))}"
    elif not _dtype_fits(spec.dtype or torch.float32, value.dtype):
        expected = "a floating dtype" if spec.dtype is None else str(spec.dtype)
        yield f"mis-typed expected {expected}, got {value.dtype}"


def _dtype_fits(declared: torch.dtype, dtype: torch.dtype) -> bool:
    """Whether a dtype will do for the declared one: any inexact one for an inexact one, else only the same."""
    return declared is dtype or (is_inexact(declared) and is_inexact(dtype))


def _shape_hint(expected: Shape, shape: Shape) -> str:
    if shape[::-1] == expected and len(shape) == 2:
        return ": the transpose"
    if shape[1:] == expected:
        return f": {shape[0]} stacked; map over them with torch.vmap"
    return ""


def _format_path(tree: str, path: str) -> str:
    return tree + "".join(f"[{key!r}]" for key in path.split(".")) if tree else repr(path)


def _describe_leaf(value: object) -> str:
    if isinstance(value, Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r:.60}"


def _nearest_name_hint(path: str, names: Iterable[str], which: str) -> str:
    matches = get_close_matches(path, list(names), n=1, cutoff=0.5)
    return f"; nearest {which} name: {matches[0]!r}" if matches else ""


def specs_by_tree(net: Net) -> dict[str, dict[str, Param | Buffer]]:
    """The declarations of a net by path, under the names of its two trees."""
    entries = list(net.entries())
    return {tree: {entry.path: entry.spec for entry in entries if entry.kind == tree} for tree in ("params", "buffers")}


def find_tree_misfits(specs: Mapping[str, Specs], trees: Mapping[str, TreeLike]) -> list[str]:
    """One line for every misfit of the trees, given under their names, with the declarations under the same names."""
    lines: list[str] = []
    for name, tree in trees.items():
        if not isinstance(tree, Mapping) or is_tensordict(tree):
            hint = _tree_hint(name, tree)
            lines.append(f"mis-typed   {name}: expected a nested dict of tensors, got {type(tree).__name__}{hint}")
        elif bad_keys := [key for key in tree if type(key) is not str or "." in key]:
            hint = "; a flat state_dict goes through funcnet.from_state_dict" if "." in str(bad_keys[0]) else ""
            lines.append(f"mis-keyed   {name}: expected nested dicts with keys of one name, got {bad_keys[:3]}{hint}")
        else:
            lines += describe_misfits(specs[name], flatten(tree), name)
    if lines and _fit_exchanged(specs, trees):
        return ["exchanged   params and buffers: each fits in the place of the other"]
    return lines


def _fit_exchanged(specs: Mapping[str, Specs], trees: Mapping[str, TreeLike]) -> bool:
    """Whether params were given for buffers and buffers for params."""
    if trees.keys() != {"params", "buffers"} or not all(type(tree) is dict for tree in trees.values()):
        return False
    exchanged = {"params": trees["buffers"], "buffers": trees["params"]}
    try:
        return not any(describe_misfits(specs[name], flatten(tree)) for name, tree in exchanged.items())
    except (AttributeError, TypeError):
        return False


def _tree_hint(name: str, value: object) -> str:
    """What to do about a value that was given for a tree and is none."""
    if is_tensordict(value):
        return f"; {name}.to_dict() is such a dict"
    if isinstance(value, nn.Module):
        return "; net, params, buffers = funcnet.from_module(module) takes the tensors of a module"
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(tree, Mapping) for tree in value):
        return "; net.init and from_state_dict return a pair: params, buffers = net.init(0)"
    if isinstance(value, Tensor):
        return "; inputs come after the trees: net(params, *inputs), net.apply(params, buffers, *inputs)"
    return ""


def find_misfits(net: Net, params: TreeLike, buffers: TreeLike) -> list[str]:
    """One line for every misfit of ``params`` and ``buffers`` with a net."""
    return find_tree_misfits(specs_by_tree(net), {"params": params, "buffers": buffers})


def misfit_error(net: Net, lines: list[str]) -> TreeError:
    """The error that lists misfits."""
    noun = "problem" if len(lines) == 1 else "problems"
    return TreeError(
        f"params and buffers do not fit {net.title()}: {len(lines)} {noun}{bullet_list(lines)}\n"
        f"net.init(0) gives the structure; funcnet.from_state_dict(net, sd) reads a state_dict."
    )

"""Rules that join and part tensors: split and fuse, stack and unstack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import Node, cat_nodes, narrow_node, reshape_node
from funcnet.checkpoint.rules._patterns import Pattern, same_holes
from funcnet.checkpoint.rules._rule import Rule, State, matching, replaced
from funcnet.checkpoint.rules._shapes import axis


@dataclass(frozen=True)
class Split(Rule):
    """Part tensors into several along one axis.

    Args:
        source: pattern of the tensors there are.
        targets: patterns of the parts, with the same holes.
        sizes: size of each part along the axis, in elements; they need not be equal (grouped-query attention).
        dim: the axis.
        optional: whether there may be no such tensor.

    >>> Split("attn.qkv", ["attn.q", "attn.k", "attn.v"], [64, 16, 16]).inverse()
    Fuse(sources=('attn.q', 'attn.k', 'attn.v'), target='attn.qkv', sizes=(64, 16, 16), dim=0, optional=False)
    """

    source: str
    targets: tuple[str, ...]
    sizes: tuple[int, ...]
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "sizes", tuple(self.sizes))
        _check(self.source, self.targets, self.sizes)

    def apply(self, state: State) -> State:
        found = matching(state, Pattern(self.source))
        if not found:
            return self.nothing(state, self.source)
        groups: dict[str, tuple[tuple[str, ...], dict[str, Node]]] = {}
        wrong: list[str] = []
        for name, holes in found.items():
            try:
                parts = _parts(state.tensors[name], self.sizes, self.dim)
            except ValueError as error:
                wrong.append(f"{name!r}: {error}")
                continue
            new = [Pattern(target).format(holes) for target in self.targets]
            groups[name] = ((name,), dict(zip(new, parts, strict=True)))
        if wrong:
            raise RuleError(f"these tensors do not fit:{truncated_list(wrong)}")
        return replaced(state, groups)

    def inverse(self) -> Fuse:
        return Fuse(self.targets, self.source, self.sizes, self.dim, self.optional)


@dataclass(frozen=True)
class Fuse(Rule):
    """Join several tensors into one along one axis; inverse of :class:`Split`, with its sizes."""

    sources: tuple[str, ...]
    target: str
    sizes: tuple[int, ...]
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "sizes", tuple(self.sizes))
        _check(self.target, self.sources, self.sizes)

    def apply(self, state: State) -> State:
        patterns = [Pattern(source) for source in self.sources]
        held = [{_key(holes): (name, holes) for name, holes in matching(state, p).items()} for p in patterns]
        keys = list(dict.fromkeys(key for part in held for key in part))
        if not keys:
            return self.nothing(state, *self.sources)
        groups: dict[str, tuple[tuple[str, ...], dict[str, Node]]] = {}
        wrong: list[str] = []
        for key in keys:
            holes = next(part[key][1] for part in held if key in part)
            missing = [repr(p.format(holes)) for p, part in zip(patterns, held, strict=True) if key not in part]
            target = Pattern(self.target).format(holes)
            if missing:
                wrong.append(f"{target!r} lacks {', '.join(missing)}")
                continue
            names = tuple(part[key][0] for part in held)
            parts = [state.tensors[name] for name in names]
            try:
                _check_pieces(parts, self.sizes, self.dim)
            except ValueError as error:
                wrong.append(f"{', '.join(map(repr, names))}: {error}")
                continue
            groups[_first(state, names)] = (names, {target: cat_nodes(parts, axis(parts[0].shape, self.dim))})
        if wrong:
            raise RuleError(f"these tensors cannot be fused:{truncated_list(wrong)}")
        return replaced(state, groups)

    def inverse(self) -> Split:
        return Split(self.target, self.sources, self.sizes, self.dim, self.optional)


@dataclass(frozen=True)
class Stack(Rule):
    """Make tensors that are numbered by one hole one tensor with a new axis.

    Args:
        source: pattern with the number, as ``"layers.{i}.{rest**}"``; numbers run from 0 without a gap.
        target: pattern without it, as ``"layers.{rest**}"``.
        dim: where the new axis is.
        optional: whether there may be no such tensor.

    >>> Stack("layers.{i}.w", "layers.w").inverse()
    Unstack(source='layers.w', target='layers.{i}.w', dim=0, optional=False)
    """

    source: str
    target: str
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        _counted(self.source, self.target)

    def apply(self, state: State) -> State:
        source, target = Pattern(self.source), Pattern(self.target)
        counted = _counted(self.source, self.target)
        found = matching(state, source)
        if not found:
            return self.nothing(state, self.source)
        stacks: dict[str, dict[str, str]] = {}
        for name, holes in found.items():
            stacks.setdefault(target.format(holes), {})[holes[counted]] = name
        groups: dict[str, tuple[tuple[str, ...], dict[str, Node]]] = {}
        wrong: list[str] = []
        for new, numbered in stacks.items():
            expected = [str(number) for number in range(len(numbered))]
            if set(numbered) != set(expected):
                there = ", ".join(sorted(numbered)[:12])
                wrong.append(f"{new!r}: the numbers are {there}, expected 0 to {len(numbered) - 1}")
                continue
            names = tuple(numbered[number] for number in expected)
            layers = [state.tensors[name] for name in names]
            try:
                if len({layer.spec for layer in layers}) > 1:
                    raise ValueError(f"are not alike: {_kinds(layers)}")
                dim = axis((*layers[0].shape, 0), self.dim)
            except ValueError as error:
                wrong.append(f"{new!r}: its layers {error}")
                continue
            shape = (*layers[0].shape[:dim], 1, *layers[0].shape[dim:])
            groups[_first(state, names)] = (
                names,
                {new: cat_nodes([reshape_node(layer, shape) for layer in layers], dim)},
            )
        if wrong:
            raise RuleError(f"these tensors cannot be stacked:{truncated_list(wrong)}")
        return replaced(state, groups)

    def inverse(self) -> Unstack:
        return Unstack(self.target, self.source, self.dim, self.optional)


@dataclass(frozen=True)
class Unstack(Rule):
    """Take one axis of a tensor apart into numbered tensors; inverse of :class:`Stack`."""

    source: str
    target: str
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        _counted(self.target, self.source)

    def apply(self, state: State) -> State:
        source, target = Pattern(self.source), Pattern(self.target)
        counted = _counted(self.target, self.source)
        found = matching(state, source)
        if not found:
            return self.nothing(state, self.source)
        groups: dict[str, tuple[tuple[str, ...], dict[str, Node]]] = {}
        wrong: list[str] = []
        for name, holes in found.items():
            node = state.tensors[name]
            try:
                dim = axis(node.shape, self.dim)
                if not node.shape[dim]:
                    raise ValueError(f"has the shape {list(node.shape)}, and no layer along axis {dim}")
            except ValueError as error:
                wrong.append(f"{name!r}: {error}")
                continue
            shape = (*node.shape[:dim], *node.shape[dim + 1 :])
            groups[name] = (
                (name,),
                {
                    target.format({**holes, counted: str(number)}): reshape_node(
                        narrow_node(node, dim, number, 1), shape
                    )
                    for number in range(node.shape[dim])
                },
            )
        if wrong:
            raise RuleError(f"these tensors do not fit:{truncated_list(wrong)}")
        return replaced(state, groups)

    def inverse(self) -> Stack:
        return Stack(self.target, self.source, self.dim, self.optional)


def _check(whole: str, parts: Sequence[str], sizes: Sequence[int]) -> None:
    if len(parts) != len(sizes) or len(parts) < 2:
        raise RuleError(f"{whole!r} has {len(parts)} parts and {len(sizes)} sizes; it needs two or more of each.")
    if any(type(size) is not int or size < 1 for size in sizes):
        raise RuleError(f"{list(sizes)} are no sizes of parts.")
    same_holes(Pattern(whole), *map(Pattern, parts))


def _parts(node: Node, sizes: Sequence[int], dim: int) -> list[Node]:
    dim = axis(node.shape, dim)
    if sum(sizes) != node.shape[dim]:
        total = " + ".join(map(str, sizes))
        raise ValueError(f"has the shape {list(node.shape)}, and {total} is {sum(sizes)}, not {node.shape[dim]}")
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [narrow_node(node, dim, start, size) for start, size in zip(starts, sizes, strict=True)]


def _check_pieces(parts: Sequence[Node], sizes: Sequence[int], dim: int) -> None:
    dim = axis(parts[0].shape, dim)
    expected = [Spec((*parts[0].shape[:dim], size, *parts[0].shape[dim + 1 :]), parts[0].spec.dtype) for size in sizes]
    if [part.spec for part in parts] != expected:
        raise ValueError(f"expected {_kinds_of(expected)}, got {_kinds(parts)}")


def _kinds(layers: Sequence[Node]) -> str:
    return _kinds_of([layer.spec for layer in layers])


def _kinds_of(specs: Sequence[Spec]) -> str:
    return ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in dict.fromkeys(specs))


def _counted(numbered: str, whole: str) -> str:
    """The one hole that numbers layers."""
    only = set(Pattern(numbered).holes) - set(Pattern(whole).holes)
    if len(only) != 1 or set(Pattern(whole).holes) - set(Pattern(numbered).holes):
        raise RuleError(f"{numbered!r} must have the holes of {whole!r} and one more, the number of the layer.")
    return only.pop()


def _key(holes: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(holes.items()))


def _first(state: State, names: tuple[str, ...]) -> str:
    """Of some names the one that comes first in the checkpoint."""
    held = set(names)
    return next(name for name in state.tensors if name in held)

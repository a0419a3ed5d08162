"""Rules that split and join tensors: split and fuse, stack and unstack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from funcnet.checkpoint._checkpoint import Spec
from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import Node, cat_nodes, narrow_node, reshape_node
from funcnet.checkpoint.rules._patterns import Pattern, check_same_holes
from funcnet.checkpoint.rules._rule import Replacement, Rule, State, match_names, replace_tensors
from funcnet.checkpoint.rules._shapes import normalize_dim


@dataclass(frozen=True)
class Split(Rule):
    """Split tensors into several along one axis.

    Args:
        source: pattern of the tensors to split.
        targets: patterns of the parts, with the same holes.
        sizes: size of each part along the axis, in elements; they may differ (grouped-query attention).
        dim: the axis.
        optional: whether it is allowed that no tensor matches.
        groups: number of equal runs of the axis, each of which holds a piece of every part. Queries, keys and values
            head by head, or group by group, are such runs: q q k v q q k v.

    >>> Split("attn.qkv", ["attn.q", "attn.k", "attn.v"], [64, 16, 16], groups=8).inverse()  # doctest: +ELLIPSIS
    Fuse(sources=('attn.q', 'attn.k', 'attn.v'), target='attn.qkv', sizes=(64, 16, 16), dim=0, ..., groups=8)
    """

    source: str
    targets: tuple[str, ...]
    sizes: tuple[int, ...]
    dim: int = 0
    optional: bool = False
    groups: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "sizes", tuple(self.sizes))
        _check_fields(self.source, self.targets, self.sizes, self.groups)

    def apply(self, state: State) -> State:
        matches = match_names(state, Pattern(self.source))
        if not matches:
            return self.unchanged_if_optional(state, self.source)
        targets = [Pattern(target) for target in self.targets]
        replacements: list[Replacement] = []
        problems: list[str] = []
        for name, holes in matches.items():
            try:
                parts = _split_node(state.tensors[name], self.sizes, self.dim, self.groups)
            except ValueError as error:
                problems.append(f"{name!r}: {error}")
                continue
            new_names = [target.format(holes) for target in targets]
            replacements.append(Replacement((name,), dict(zip(new_names, parts, strict=True))))
        if problems:
            raise RuleError(f"these tensors do not fit:{truncated_list(problems)}")
        return replace_tensors(state, replacements)

    def inverse(self) -> Fuse:
        return Fuse(self.targets, self.source, self.sizes, self.dim, self.optional, self.groups)


@dataclass(frozen=True)
class Fuse(Rule):
    """Concatenate several tensors along one axis; inverse of :class:`Split`, with the same sizes.

    >>> Fuse(["q", "k", "v"], "qkv", [4, 2, 2]).inverse()
    Split(source='qkv', targets=('q', 'k', 'v'), sizes=(4, 2, 2), dim=0, optional=False, groups=1)
    """

    sources: tuple[str, ...]
    target: str
    sizes: tuple[int, ...]
    dim: int = 0
    optional: bool = False
    groups: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "sizes", tuple(self.sizes))
        _check_fields(self.target, self.sources, self.sizes, self.groups)

    def apply(self, state: State) -> State:
        patterns, target_pattern = [Pattern(source) for source in self.sources], Pattern(self.target)
        # for each source the names that match, by the values of the holes
        names_by_holes = [
            {tuple(sorted(holes.items())): name for name, holes in match_names(state, pattern).items()}
            for pattern in patterns
        ]
        groups = list(dict.fromkeys(holes for names in names_by_holes for holes in names))
        if not groups:
            return self.unchanged_if_optional(state, *self.sources)
        replacements: list[Replacement] = []
        problems: list[str] = []
        for holes in groups:
            target = target_pattern.format(dict(holes))
            missing = [
                repr(pattern.format(dict(holes)))
                for pattern, names in zip(patterns, names_by_holes, strict=True)
                if holes not in names
            ]
            if missing:
                problems.append(f"{target!r} lacks {', '.join(missing)}")
                continue
            sources = tuple(names[holes] for names in names_by_holes)
            parts = [state.tensors[name] for name in sources]
            try:
                _check_parts(parts, self.sizes, self.dim)
            except ValueError as error:
                problems.append(f"{', '.join(map(repr, sources))}: {error}")
                continue
            replacements.append(Replacement(sources, {target: _fuse_nodes(parts, self.dim, self.groups)}))
        if problems:
            raise RuleError(f"these tensors cannot be fused:{truncated_list(problems)}")
        return replace_tensors(state, replacements)

    def inverse(self) -> Split:
        return Split(self.target, self.sources, self.sizes, self.dim, self.optional, self.groups)


@dataclass(frozen=True)
class Stack(Rule):
    """Stack tensors whose names differ in one number along a new axis.

    Args:
        source: pattern with the number, as ``"layers.{i}.{rest**}"``; numbers run from 0 without a gap.
        target: pattern without it, as ``"layers.{rest**}"``.
        dim: the position of the new axis.
        optional: whether it is allowed that no tensor matches.

    >>> Stack("layers.{i}.w", "layers.w").inverse()
    Unstack(source='layers.w', target='layers.{i}.w', dim=0, optional=False)
    """

    source: str
    target: str
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        find_number_hole(self.source, self.target)

    def apply(self, state: State) -> State:
        target = Pattern(self.target)
        layer_hole = find_number_hole(self.source, self.target)
        matches = match_names(state, Pattern(self.source))
        if not matches:
            return self.unchanged_if_optional(state, self.source)
        stacks: dict[str, dict[str, str]] = {}  # new name -> number of the layer -> name
        for name, holes in matches.items():
            stacks.setdefault(target.format(holes), {})[holes[layer_hole]] = name
        replacements: list[Replacement] = []
        problems: list[str] = []
        for new_name, name_by_number in stacks.items():
            numbers = [str(number) for number in range(len(name_by_number))]
            if set(name_by_number) != set(numbers):
                present = ", ".join(sorted(name_by_number)[:12])
                problems.append(f"{new_name!r}: the numbers are {present}, expected 0 to {len(name_by_number) - 1}")
                continue
            names = tuple(name_by_number[number] for number in numbers)
            layers = [state.tensors[name] for name in names]
            try:
                if len({layer.spec for layer in layers}) > 1:
                    raise ValueError(f"are not alike: {_format_specs([layer.spec for layer in layers])}")
                dim = normalize_dim((*layers[0].shape, 0), self.dim)
            except ValueError as error:
                problems.append(f"{new_name!r}: its layers {error}")
                continue
            shape = (*layers[0].shape[:dim], 1, *layers[0].shape[dim:])
            replacements.append(
                Replacement(names, {new_name: cat_nodes([reshape_node(layer, shape) for layer in layers], dim)})
            )
        if problems:
            raise RuleError(f"these tensors cannot be stacked:{truncated_list(problems)}")
        return replace_tensors(state, replacements)

    def inverse(self) -> Unstack:
        return Unstack(self.target, self.source, self.dim, self.optional)


@dataclass(frozen=True)
class Unstack(Rule):
    """Make each slice along one axis of a tensor a tensor with its number in the name; inverse of :class:`Stack`.

    >>> Unstack("layers.weight", "layers.{i}.weight").inverse()
    Stack(source='layers.{i}.weight', target='layers.weight', dim=0, optional=False)
    """

    source: str
    target: str
    dim: int = 0
    optional: bool = False

    def __post_init__(self) -> None:
        find_number_hole(self.target, self.source)

    def apply(self, state: State) -> State:
        target = Pattern(self.target)
        layer_hole = find_number_hole(self.target, self.source)
        matches = match_names(state, Pattern(self.source))
        if not matches:
            return self.unchanged_if_optional(state, self.source)
        replacements: list[Replacement] = []
        problems: list[str] = []
        for name, holes in matches.items():
            node = state.tensors[name]
            try:
                dim = normalize_dim(node.shape, self.dim)
                if not node.shape[dim]:
                    raise ValueError(f"has the shape {list(node.shape)}, and no layer along axis {dim}")
            except ValueError as error:
                problems.append(f"{name!r}: {error}")
                continue
            shape = (*node.shape[:dim], *node.shape[dim + 1 :])
            layers = {
                target.format({**holes, layer_hole: str(number)}): reshape_node(
                    narrow_node(node, dim, number, 1), shape
                )
                for number in range(node.shape[dim])
            }
            replacements.append(Replacement((name,), layers))
        if problems:
            raise RuleError(f"these tensors do not fit:{truncated_list(problems)}")
        return replace_tensors(state, replacements)

    def inverse(self) -> Stack:
        return Stack(self.target, self.source, self.dim, self.optional)


def _check_fields(fused: str, parts: Sequence[str], sizes: Sequence[int], groups: int) -> None:
    """Refuse fields of a Split or Fuse that do not fit one another."""
    if len(parts) != len(sizes) or len(parts) < 2:
        raise RuleError(f"{fused!r} has {len(parts)} parts and {len(sizes)} sizes; it needs two or more of each.")
    if any(type(size) is not int or size < 1 for size in sizes):
        raise RuleError(f"{list(sizes)} are no sizes of parts.")
    if groups < 1 or any(size % groups for size in sizes):
        raise RuleError(f"parts of the sizes {list(sizes)} cannot each lie in {groups} groups of one length.")
    check_same_holes(Pattern(fused), *map(Pattern, parts))


def _split_node(node: Node, sizes: Sequence[int], dim: int, groups: int) -> list[Node]:
    dim = normalize_dim(node.shape, dim)
    if sum(sizes) != node.shape[dim]:
        total = " + ".join(map(str, sizes))
        raise ValueError(f"has the shape {list(node.shape)}, and {total} is {sum(sizes)}, not {node.shape[dim]}")
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    if groups == 1:
        return [narrow_node(node, dim, start, size) for start, size in zip(starts, sizes, strict=True)]
    runs = _split_axis(node, dim, groups)
    return [
        _merge_axis(narrow_node(runs, dim + 1, start // groups, size // groups), dim)
        for start, size in zip(starts, sizes, strict=True)
    ]


def _fuse_nodes(parts: Sequence[Node], dim: int, groups: int) -> Node:
    dim = normalize_dim(parts[0].shape, dim)
    if groups == 1:
        return cat_nodes(parts, dim)
    return _merge_axis(cat_nodes([_split_axis(part, dim, groups) for part in parts], dim + 1), dim)


def _split_axis(node: Node, dim: int, outer: int) -> Node:
    """The node with one axis as two, the first of size ``outer``."""
    return reshape_node(node, (*node.shape[:dim], outer, node.shape[dim] // outer, *node.shape[dim + 1 :]))


def _merge_axis(node: Node, dim: int) -> Node:
    """The node with an axis and the next as one."""
    return reshape_node(node, (*node.shape[:dim], node.shape[dim] * node.shape[dim + 1], *node.shape[dim + 2 :]))


def _check_parts(parts: Sequence[Node], sizes: Sequence[int], dim: int) -> None:
    """Refuse parts that differ from the first in more than the sizes along the axis."""
    dim = normalize_dim(parts[0].shape, dim)
    specs = [part.spec for part in parts]
    expected = [Spec((*specs[0].shape[:dim], size, *specs[0].shape[dim + 1 :]), specs[0].dtype) for size in sizes]
    if specs != expected:
        raise ValueError(f"expected {_format_specs(expected)}, got {_format_specs(specs)}")


def _format_specs(specs: Sequence[Spec]) -> str:
    return ", ".join(f"{spec.dtype} {list(spec.shape)}" for spec in dict.fromkeys(specs))


def find_number_hole(separate: str, stacked: str) -> str:
    """The hole for the number of a layer or rank, which only the pattern of the separate tensors has."""
    stacked_holes, separate_holes = set(Pattern(stacked).holes), set(Pattern(separate).holes)
    extra = separate_holes - stacked_holes
    if len(extra) != 1 or stacked_holes - separate_holes:
        raise RuleError(f"{separate!r} must have the holes of {stacked!r} and one more, the number of the layer.")
    return extra.pop()

"""Rules from links: those of all layers as one pattern, where a pattern means them and no other tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from funcnet._typing import Shape
from funcnet.checkpoint._matching._changes import merge_heads, permute_shape
from funcnet.checkpoint._matching._links import NUMBER, Link
from funcnet.checkpoint._matching._stacks import Stacks
from funcnet.checkpoint.rules import Fuse, Permute, Rename, Reshape, Rule, Split, Stack, Transpose, Unstack
from funcnet.checkpoint.rules._patterns import Pattern

_HOLES = "ijkmn"


@dataclass(frozen=True)
class LinkGroup:
    """Links that one list of rules carries out.

    Attributes:
        sources, targets: patterns of the names.
        links: the links.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    links: tuple[Link, ...]

    @property
    def first(self) -> Link:
        """The first link, whose change and doubt all others share."""
        return self.links[0]


def group_links(links: Iterable[Link], sources: Mapping[str, Shape], groups_numbers: bool) -> list[LinkGroup]:
    """Groups of links, in the order of the sources.

    Args:
        links: the links.
        sources: shapes of all source tensors.
        groups_numbers: whether names that differ in numbers may be one pattern.
    """
    alike: dict[object, list[Link]] = {}
    for link in links:
        forms = [tuple(NUMBER.sub("#", name) for name in names) for names in (link.sources, link.targets)]
        shape = sources[link.sources[0]] if link.change.before or link.change.after else None
        key = (*forms, link.change, link.join, link.doubt, shape) if groups_numbers else link
        alike.setdefault(key, []).append(link)
    names = _NameIndex(sources)
    groups = [group for members in alike.values() for group in _iter_groups(members, names)]
    positions = {name: position for position, name in enumerate(sources)}
    return sorted(groups, key=lambda group: positions[group.first.sources[0]])


def _iter_groups(links: Sequence[Link], names: _NameIndex) -> Iterator[LinkGroup]:
    """The fewest groups whose patterns mean nothing else."""
    if len(links) == 1:
        yield LinkGroup(links[0].sources, links[0].targets, (links[0],))
        return
    source_numbers = [[number for name in link.sources for number in NUMBER.findall(name)] for link in links]
    target_numbers = [[number for name in link.targets for number in NUMBER.findall(name)] for link in links]
    columns = list(zip(*source_numbers, strict=True))
    hole_of: dict[tuple[str, ...], str] = {}
    for column in columns:
        if len(set(column)) > 1 and column not in hole_of and len(hole_of) < len(_HOLES):
            hole_of[column] = f"{{{_HOLES[len(hole_of)]}}}"
    target_columns = list(zip(*target_numbers, strict=True))
    is_told = all(len(set(column)) == 1 or column in hole_of for column in target_columns)
    patterns = _fill_holes(links[0].sources, columns, hole_of), _fill_holes(links[0].targets, target_columns, hole_of)
    has_all_holes = {*re.findall(r"\{\w\}", patterns[0][0])} == {*hole_of.values()}
    if (
        is_told
        and has_all_holes
        and all(names.count_matches(pattern) == len(links) for pattern in patterns[0])
        and _have_same_holes(*patterns[0], *patterns[1])
    ):
        yield LinkGroup(*patterns, tuple(links))
        return
    position = next(position for position, column in enumerate(columns) if len(set(column)) > 1)
    by_number: dict[str, list[Link]] = {}
    for link, numbers in zip(links, source_numbers, strict=True):
        by_number.setdefault(numbers[position], []).append(link)
    for members in by_number.values():
        yield from _iter_groups(members, names)


def _have_same_holes(*patterns: str) -> bool:
    return len({frozenset(re.findall(r"\{\w\}", pattern)) for pattern in patterns}) == 1


def _fill_holes(
    names: tuple[str, ...], columns: Sequence[tuple[str, ...]], hole_of: Mapping[tuple[str, ...], str]
) -> tuple[str, ...]:
    """The names with a hole in the place of each number that varies."""
    remaining = iter(columns)
    return tuple(NUMBER.sub(lambda match: hole_of.get(next(remaining), match[0]), name) for name in names)


class _NameIndex:
    """The names of a layout, by what a pattern that matches them must have in common with them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names: dict[tuple[int, str], list[str]] = {}
        for name in names:
            self._names.setdefault(self._key(name), []).append(name)

    @staticmethod
    def _key(name: str) -> tuple[int, str]:
        keys = re.split(r"[./]", name)
        return len(keys), "" if NUMBER.search(keys[-1]) or "{" in keys[-1] else keys[-1]

    def count_matches(self, pattern: str) -> int:
        """How many names a pattern matches."""
        compiled = Pattern(pattern)
        return sum(compiled.match(name) is not None for name in self._names.get(self._key(pattern), ()))


def make_rules(group: LinkGroup, sources: Stacks, targets: Stacks) -> list[Rule]:
    """The rules that carry out a group."""
    names, new_names = list(group.sources), list(group.targets)
    rules: list[Rule] = []
    for number, name in enumerate(group.first.sources):
        if name in sources.stacked_of:
            stacked = _drop_layer(names[number], name, sources.stacked_of[name])
            rules.append(Unstack(stacked, names[number]))
    change, join = group.first.change, group.first.join
    shape = sources.shapes[group.first.sources[0]]
    if change.before is not None:
        rules += [Reshape(name, shape, change.before) for name in names]
        shape = change.before
    permutation = change.permutation if join is None else join.permutation
    if permutation == (1, 0):
        rules += [Transpose(name) for name in names]
    elif permutation is not None:
        rules += [Permute(name, permutation) for name in names]
    if join is not None:
        parted = len(names) == 1
        rules.append(
            Split(names[0], tuple(new_names), join.sizes, join.dim)
            if parted
            else Fuse(tuple(names), new_names[0], join.sizes, join.dim)
        )
    elif names[0] != new_names[0]:
        rules.append(Rename(names[0], new_names[0]))
    if change.after is not None:
        present = permute_shape(shape, permutation) if join is None else merge_heads(change.after)
        rules += [Reshape(name, present, change.after) for name in new_names]
    for number, name in enumerate(group.first.targets):
        if name in targets.stacked_of:
            rules.append(Stack(new_names[number], _drop_layer(new_names[number], name, targets.stacked_of[name])))
    return rules


def _drop_layer(pattern: str, name: str, stacked: str) -> str:
    """The pattern of a stacked tensor, from that of one of its layers, whose name has one key more.

    >>> _drop_layer("layers.{i}.w", "layers.0.w", "layers.w")
    'layers.w'
    """
    keys, stacked_keys = name.split("."), stacked.split(".")
    place = next(place for place, key in enumerate(keys) if place >= len(stacked_keys) or key != stacked_keys[place])
    parts = pattern.split(".")
    return ".".join([*parts[:place], *parts[place + 1 :]])


def move_away(groups: Sequence[LinkGroup]) -> tuple[list[Rename], list[LinkGroup]]:
    """First give temporary names to sources whose names other tensors will take; rules are applied in order.

    Returns:
        The rules that rename them, and the groups with the new names.
    """
    group_of_target = {
        name: number for number, group in enumerate(groups) for link in group.links for name in link.targets
    }
    renames: list[Rename] = []
    moved: list[LinkGroup] = []
    for number, group in enumerate(groups):
        patterns = list(group.sources)
        for place, pattern in enumerate(group.sources):
            names = [link.sources[place] for link in group.links]
            if any(group_of_target.get(name, number) != number for name in names):
                patterns[place] = f"source.{pattern}"
                renames.append(Rename(pattern, patterns[place]))
        moved.append(replace(group, sources=tuple(patterns)))
    return renames, moved

"""The ways in which tensors of one layout can be tensors of another: turned, fused, split, stacked, unstacked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from funcnet._typing import Shape
from funcnet.checkpoint._matching._families import HOLES, Family
from funcnet.checkpoint._matching._words import likeness, meanings
from funcnet.checkpoint.rules import Fuse, Permute, Rename, Rule, Split, Stack, Transpose, Unstack

TURNS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 0),),
    3: ((2, 1, 0),),
    4: ((3, 2, 0, 1), (2, 3, 1, 0)),
    5: ((4, 3, 0, 1, 2), (2, 3, 4, 1, 0)),
}
"""Orders of axes between frameworks, by their number: (in, out) and the kernels of convolutions, both ways."""
_LAYER = "layer"
_TOGETHER = (("q", "k", "v"), ("k", "v"), ("gate", "up"))


@dataclass(frozen=True, eq=False)
class Link:
    """One way from some families to others.

    Attributes:
        sources, targets: several sources are fused, several targets are split off.
        turn: the order that the axes of each source are put in; None to leave them.
        unclear: whether another turn would fit the shapes too.
        dim, sizes: of fusing or splitting.
        stack, unstack: the hole of the sources, or of the targets, that is an axis on the other side.
    """

    sources: tuple[Family, ...]
    targets: tuple[Family, ...]
    turn: tuple[int, ...] | None = None
    unclear: bool = False
    dim: int = 0
    sizes: tuple[int, ...] = ()
    stack: int | None = None
    unstack: int | None = None

    @property
    def both(self) -> tuple[Family, ...]:
        """Sources and targets."""
        return (*self.sources, *self.targets)

    @cached_property
    def before(self) -> str:
        """The path of the module that has the sources."""
        return _module(self.sources)

    @cached_property
    def after(self) -> str:
        """The path of the module that has the targets."""
        return _module(self.targets)

    @property
    def joins(self) -> bool:
        """Whether tensors are fused or split, of which no shape tells the order."""
        return bool(self.sizes)

    @property
    def score(self) -> float:
        """How alike the names are; where they are as alike, the simpler link is the better."""
        pairs = [(one.pattern, other.pattern) for one in self.sources for other in self.targets]
        if self.joins:
            pairs = [(_fused_name(self.sources), _fused_name(self.targets))]
        plain = self.turn is None and not self.joins and self.stack is None and self.unstack is None
        return sum(likeness(*pair) for pair in pairs) / len(pairs) + 0.02 * plain

    def how(self) -> str:
        """What is done, in words."""
        words = ["unstacked"] * (self.unstack is not None) + ["turned"] * (self.turn is not None)
        words += ["fused"] * (len(self.sources) > 1) + ["split"] * (len(self.targets) > 1)
        return ", ".join([*words, *["stacked"] * (self.stack is not None)]) or "renamed"

    def rules(self) -> list[Rule]:
        """The rules that lead this way."""
        pieces = [_holes(family.pattern, self.stack) for family in self.sources]
        ends = [_holes(family.pattern, self.unstack) for family in self.targets]
        made: list[Rule] = []
        if self.unstack is not None:
            made += [Unstack(piece, _numbered(piece)) for piece in pieces]
            pieces = [_numbered(piece) for piece in pieces]
        if self.turn is not None:
            made += [Transpose(piece) if self.turn == (1, 0) else Permute(piece, self.turn) for piece in pieces]
        layers = [_numbered(end) for end in ends] if self.stack is not None else ends
        if len(self.sources) > 1:
            made.append(Fuse(tuple(pieces), layers[0], self.sizes, self.dim))
        elif len(self.targets) > 1:
            made.append(Split(pieces[0], tuple(layers), self.sizes, self.dim))
        elif pieces[0] != layers[0]:
            made.append(Rename(pieces[0], layers[0]))
        if self.stack is not None:
            made += [Stack(layer, end) for layer, end in zip(layers, ends, strict=True)]
        return made


def links(sources: Sequence[Family], targets: Sequence[Family]) -> Iterator[Link]:
    """Every way that the shapes allow."""
    alike: dict[object, dict[Family, None]] = {}
    for target in targets:
        for key in _keys(target):
            alike.setdefault(key, {})[target] = None
    for source in sources:
        for target in dict.fromkeys(family for key in _keys(source) for family in alike.get(key, ())):
            yield from _single(source, target)
    for group in _siblings(sources):
        for target in targets:
            yield from _fused(group, target)
    for group in _siblings(targets):
        for source in sources:
            yield from _split(source, group)


def _keys(family: Family) -> list[tuple[object, ...]]:
    """What families have in common that may be one another: the sizes of axes, in any order, also if stacked."""
    counts = family.counts
    keys: list[tuple[object, ...]] = [(counts, tuple(sorted(family.shape)))]
    for hole, count in enumerate(counts):
        keys.append(((*counts[:hole], *counts[hole + 1 :]), tuple(sorted((count, *family.shape)))))
    return keys


def _layouts(source: Family, target: Family) -> Iterator[tuple[Shape, Shape, int | None, int | None]]:
    """Shapes of one layer on both sides, and the hole of the source or target that is an axis of the other."""
    if source.counts == target.counts:
        yield source.shape, target.shape, None, None
    for hole in _extra(source.counts, target):
        yield source.shape, target.shape[1:], hole, None
    for hole in _extra(target.counts, source):
        yield source.shape[1:], target.shape, None, hole


def _extra(counts: tuple[int, ...], stacked: Family) -> Iterator[int]:
    for hole, count in enumerate(counts):
        if (*counts[:hole], *counts[hole + 1 :]) == stacked.counts and stacked.shape[:1] == (count,):
            yield hole


def _turned(shape: Shape, turn: tuple[int, ...] | None) -> Shape:
    return shape if turn is None else tuple(shape[axis] for axis in turn)


def _single(source: Family, target: Family) -> Iterator[Link]:
    for before, after, stack, unstack in _layouts(source, target):
        turns = (None, *TURNS.get(len(before), ()))
        fitting = [turn for turn in turns if _turned(before, turn) == after]
        if fitting:
            unclear = len(fitting) > 1 and len(before) == 2
            yield Link((source,), (target,), fitting[0], unclear, stack=stack, unstack=unstack)


_JOINS: tuple[tuple[tuple[int, ...] | None, int], ...] = ((None, 0), ((1, 0), 0), (None, 1))
"""How sources are turned, and the axis then: along rows if that fits, for so torch has them."""


def _fused(group: tuple[Family, ...], whole: Family) -> Iterator[Link]:
    """From the parts in a group to the tensor that holds all of them."""
    if len({family.counts for family in group}) > 1:
        return
    for before, after, stack, unstack in _layouts(group[0], whole):
        shapes = [before, *(family.shape[unstack is not None :] for family in group[1:])]
        for turn, dim in _JOINS:
            if turn is None or all(len(shape) == 2 for shape in shapes):
                sizes = _sizes([_turned(shape, turn) for shape in shapes], after, dim)
                if sizes:
                    yield Link(group, (whole,), turn, True, dim, sizes, stack, unstack)
                    break


def _split(whole: Family, group: tuple[Family, ...]) -> Iterator[Link]:
    """From the tensor that holds all to the parts in a group."""
    if len({family.counts for family in group}) > 1:
        return
    for before, after, stack, unstack in _layouts(whole, group[0]):
        shapes = [after, *(family.shape[stack is not None :] for family in group[1:])]
        for turn, dim in _JOINS:
            if turn is None or len(before) == 2:
                sizes = _sizes(shapes, _turned(before, turn), dim)
                if sizes:
                    yield Link((whole,), group, turn, True, dim, sizes, stack, unstack)
                    break


def _sizes(parts: Sequence[Shape], whole: Shape, dim: int) -> tuple[int, ...]:
    """The sizes of parts that make up a whole along an axis; none if they do not."""
    if any(len(part) <= dim for part in parts):
        return ()
    sizes = tuple(part[dim] for part in parts)
    wanted = {(*whole[:dim], size, *whole[dim + 1 :]) for size in sizes}
    return sizes if len(whole) > dim and sum(sizes) == whole[dim] and set(parts) == wanted else ()


def _siblings(given: Sequence[Family]) -> Iterator[tuple[Family, ...]]:
    """Families whose names differ in one key alone, which says that they may be one tensor elsewhere."""
    groups: dict[tuple[str, str], dict[str, Family]] = {}
    for family in given:
        keys = re.split(r"[./]", family.pattern)
        for place, key in enumerate(keys):
            meaning = "".join(meanings(key)[:1])
            if meaning in ("q", "k", "v", "gate", "up"):
                frame = ("/".join([*keys[:place], "*", *keys[place + 1 :]]), "qkv" if meaning in "qkv" else "mlp")
                groups.setdefault(frame, {})[meaning] = family
    for found in groups.values():
        for together in _TOGETHER:
            if set(together) <= set(found):
                yield tuple(found[meaning] for meaning in together)


def _module(side: tuple[Family, ...]) -> str:
    return "+".join(family.pattern.replace("/", ".").rpartition(".")[0] for family in side)


def _fused_name(parts: tuple[Family, ...]) -> str:
    """A name for what several are fused to."""
    if len(parts) == 1:
        return parts[0].pattern
    split = [re.split(r"[./]", part.pattern) for part in parts]
    fused = "qkv" if len(parts) == 3 or "k" in meanings(parts[0].pattern) else "gate_up"
    return ".".join(keys[0] if len(set(keys)) == 1 else fused for keys in zip(*split, strict=True))


def _holes(pattern: str, layer: int | None) -> str:
    """A pattern with its holes named in order, but for the one that is an axis on the other side."""
    names = iter(HOLES)
    count = -1

    def name(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"{{{_LAYER if count == layer else next(names)}}}"

    return re.sub(r"\{\w+\}", name, pattern)


def _numbered(pattern: str) -> str:
    """A name with one more key for the layer."""
    first, dot, rest = pattern.partition(".")
    return f"{first}.{{{_LAYER}}}{dot}{rest}"

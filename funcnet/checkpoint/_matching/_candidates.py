"""How tensors of one layout can become those of a second one: transposed, fused, split, stacked or unstacked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from funcnet._typing import Shape
from funcnet.checkpoint._matching._families import HOLES, Family
from funcnet.checkpoint._matching._name_similarity import name_similarity, split_words
from funcnet.checkpoint.rules import Fuse, Permute, Rename, Rule, Split, Stack, Transpose, Unstack

PERMUTATIONS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((1, 0),),
    3: ((2, 1, 0),),
    4: ((3, 2, 0, 1), (2, 3, 1, 0)),
    5: ((4, 3, 0, 1, 2), (2, 3, 4, 1, 0)),
}
"""Number of axes -> their orders in other frameworks: (in, out), and kernels of convolutions in both directions."""
_LAYER = "layer"
_JOINED_WORDS = (("q", "k", "v"), ("k", "v"), ("gate", "up"))


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way in which some families of the source can become some families of the target.

    Attributes:
        sources, targets: several sources are fused, and one source is split into several targets.
        permutation: the new order of the axes of each source; None to leave them.
        is_ambiguous: whether a second permutation would fit the shapes too.
        dim, sizes: of fusing or splitting.
        stack_hole: the hole of the sources whose numbers become an axis of the target.
        unstack_hole: the hole of the targets whose numbers are an axis of the source.
    """

    sources: tuple[Family, ...]
    targets: tuple[Family, ...]
    permutation: tuple[int, ...] | None = None
    is_ambiguous: bool = False
    dim: int = 0
    sizes: tuple[int, ...] = ()
    stack_hole: int | None = None
    unstack_hole: int | None = None

    @property
    def families(self) -> tuple[Family, ...]:
        """Sources and targets."""
        return (*self.sources, *self.targets)

    @cached_property
    def source_module(self) -> str:
        """The path of the module that has the sources."""
        return _module_path(self.sources)

    @cached_property
    def target_module(self) -> str:
        """The path of the module that has the targets."""
        return _module_path(self.targets)

    @property
    def joins(self) -> bool:
        """Whether tensors are fused or split. Shapes do not tell the order of the parts."""
        return bool(self.sizes)

    @property
    def score(self) -> float:
        """How similar the names are; among candidates with names as similar, the simplest is the best."""
        pairs = [(source.pattern, target.pattern) for source in self.sources for target in self.targets]
        if self.joins:
            pairs = [(_fused_name(self.sources), _fused_name(self.targets))]
        is_rename = (
            self.permutation is None and not self.joins and self.stack_hole is None and self.unstack_hole is None
        )
        return sum(name_similarity(*pair) for pair in pairs) / len(pairs) + 0.02 * is_rename

    def describe_change(self) -> str:
        """What happens to the tensors, in words."""
        words = ["unstacked"] * (self.unstack_hole is not None) + ["turned"] * (self.permutation is not None)
        words += ["fused"] * (len(self.sources) > 1) + ["split"] * (len(self.targets) > 1)
        return ", ".join([*words, *["stacked"] * (self.stack_hole is not None)]) or "renamed"

    def make_rules(self) -> list[Rule]:
        """The rules that take the sources to the targets."""
        sources = [_rename_holes(family.pattern, self.stack_hole) for family in self.sources]
        targets = [_rename_holes(family.pattern, self.unstack_hole) for family in self.targets]
        rules: list[Rule] = []
        if self.unstack_hole is not None:
            rules += [Unstack(source, _add_layer_key(source)) for source in sources]
            sources = [_add_layer_key(source) for source in sources]
        if self.permutation == (1, 0):
            rules += [Transpose(source) for source in sources]
        elif self.permutation is not None:
            rules += [Permute(source, self.permutation) for source in sources]
        layers = [_add_layer_key(target) for target in targets] if self.stack_hole is not None else targets
        if len(self.sources) > 1:
            rules.append(Fuse(tuple(sources), layers[0], self.sizes, self.dim))
        elif len(self.targets) > 1:
            rules.append(Split(sources[0], tuple(layers), self.sizes, self.dim))
        elif sources[0] != layers[0]:
            rules.append(Rename(sources[0], layers[0]))
        if self.stack_hole is not None:
            rules += [Stack(layer, target) for layer, target in zip(layers, targets, strict=True)]
        return rules


def iter_candidates(sources: Sequence[Family], targets: Sequence[Family]) -> Iterator[Candidate]:
    """Every candidate that the shapes allow."""
    targets_by_key: dict[object, dict[Family, None]] = {}
    for target in targets:
        for key in _shape_keys(target):
            targets_by_key.setdefault(key, {})[target] = None
    for source in sources:
        for target in dict.fromkeys(family for key in _shape_keys(source) for family in targets_by_key.get(key, ())):
            yield from _iter_single(source, target)
    for group in _iter_groups(sources):
        for target in targets:
            yield from _iter_fused(group, target)
    for group in _iter_groups(targets):
        for source in sources:
            yield from _iter_split(source, group)


def _shape_keys(family: Family) -> list[tuple[object, ...]]:
    """Lookup keys: families that can be converted into each other share at least one.

    A key has the counts of the holes and the sizes of the axes in any order, without change or with a stacked hole.
    """
    counts = family.counts
    keys: list[tuple[object, ...]] = [(counts, tuple(sorted(family.shape)))]
    for hole, count in enumerate(counts):
        keys.append(((*counts[:hole], *counts[hole + 1 :]), tuple(sorted((count, *family.shape)))))
    return keys


def _iter_layer_shapes(source: Family, target: Family) -> Iterator[tuple[Shape, Shape, int | None, int | None]]:
    """The shapes of one layer in source and target, and the hole to stack or to unstack, if there is one."""
    if source.counts == target.counts:
        yield source.shape, target.shape, None, None
    for hole in _iter_stacked_holes(source.counts, target):
        yield source.shape, target.shape[1:], hole, None
    for hole in _iter_stacked_holes(target.counts, source):
        yield source.shape[1:], target.shape, None, hole


def _iter_stacked_holes(counts: tuple[int, ...], stacked: Family) -> Iterator[int]:
    """The holes, of those with these counts, whose numbers can be the first axis of a stacked family."""
    for hole, count in enumerate(counts):
        if (*counts[:hole], *counts[hole + 1 :]) == stacked.counts and stacked.shape[:1] == (count,):
            yield hole


def _permute_shape(shape: Shape, permutation: tuple[int, ...] | None) -> Shape:
    return shape if permutation is None else tuple(shape[axis] for axis in permutation)


def _iter_single(source: Family, target: Family) -> Iterator[Candidate]:
    for before, after, stack_hole, unstack_hole in _iter_layer_shapes(source, target):
        permutations = (None, *PERMUTATIONS.get(len(before), ()))
        fitting = [permutation for permutation in permutations if _permute_shape(before, permutation) == after]
        if fitting:
            is_ambiguous = len(fitting) > 1 and len(before) == 2
            yield Candidate(
                (source,), (target,), fitting[0], is_ambiguous, stack_hole=stack_hole, unstack_hole=unstack_hole
            )


_JOINS: tuple[tuple[tuple[int, ...] | None, int], ...] = ((None, 0), ((1, 0), 0), (None, 1))
"""How sources are permuted, and the axis to join along after that. Rows come first, because torch joins rows."""


def _iter_fused(group: tuple[Family, ...], fused: Family) -> Iterator[Candidate]:
    """Candidates from the parts in a group to the tensor that holds all of them."""
    if len({family.counts for family in group}) > 1:
        return
    for before, after, stack_hole, unstack_hole in _iter_layer_shapes(group[0], fused):
        shapes = [before, *(family.shape[unstack_hole is not None :] for family in group[1:])]
        for permutation, dim in _JOINS:
            if permutation is None or all(len(shape) == 2 for shape in shapes):
                sizes = _part_sizes([_permute_shape(shape, permutation) for shape in shapes], after, dim)
                if sizes:
                    yield Candidate(group, (fused,), permutation, True, dim, sizes, stack_hole, unstack_hole)
                    break


def _iter_split(fused: Family, group: tuple[Family, ...]) -> Iterator[Candidate]:
    """Candidates from the tensor that holds all parts to the parts in a group."""
    if len({family.counts for family in group}) > 1:
        return
    for before, after, stack_hole, unstack_hole in _iter_layer_shapes(fused, group[0]):
        shapes = [after, *(family.shape[stack_hole is not None :] for family in group[1:])]
        for permutation, dim in _JOINS:
            if permutation is None or len(before) == 2:
                sizes = _part_sizes(shapes, _permute_shape(before, permutation), dim)
                if sizes:
                    yield Candidate((fused,), group, permutation, True, dim, sizes, stack_hole, unstack_hole)
                    break


def _part_sizes(parts: Sequence[Shape], fused: Shape, dim: int) -> tuple[int, ...]:
    """The sizes along an axis of parts that make up a fused tensor; empty if they do not.

    >>> _part_sizes([(4, 3), (2, 3)], (6, 3), 0), _part_sizes([(4, 3), (2, 3)], (7, 3), 0)
    ((4, 2), ())
    """
    if any(len(part) <= dim for part in parts):
        return ()
    sizes = tuple(part[dim] for part in parts)
    expected = {(*fused[:dim], size, *fused[dim + 1 :]) for size in sizes}
    return sizes if len(fused) > dim and sum(sizes) == fused[dim] and set(parts) == expected else ()


def _iter_groups(families: Sequence[Family]) -> Iterator[tuple[Family, ...]]:
    """Groups of families that may be one tensor in the other layout: their names differ in one key, as q, k and v."""
    groups: dict[tuple[str, str], dict[str, Family]] = {}
    for family in families:
        keys = re.split(r"[./]", family.pattern)
        for position, key in enumerate(keys):
            word = "".join(split_words(key)[:1])
            if word in ("q", "k", "v", "gate", "up"):
                frame = "/".join([*keys[:position], "*", *keys[position + 1 :]])
                groups.setdefault((frame, "qkv" if word in "qkv" else "mlp"), {})[word] = family
    for family_by_word in groups.values():
        for words in _JOINED_WORDS:
            if set(words) <= set(family_by_word):
                yield tuple(family_by_word[word] for word in words)


def _module_path(families: tuple[Family, ...]) -> str:
    return "+".join(family.pattern.replace("/", ".").rpartition(".")[0] for family in families)


def _fused_name(parts: tuple[Family, ...]) -> str:
    """A name for the tensor that some parts are fused to."""
    if len(parts) == 1:
        return parts[0].pattern
    keys_of_parts = [re.split(r"[./]", part.pattern) for part in parts]
    fused = "qkv" if len(parts) == 3 or "k" in split_words(parts[0].pattern) else "gate_up"
    return ".".join(keys[0] if len(set(keys)) == 1 else fused for keys in zip(*keys_of_parts, strict=True))


def _rename_holes(pattern: str, layer: int | None) -> str:
    """A pattern whose holes are named in order, except that hole number ``layer`` is called "layer".

    >>> _rename_holes("h.{i}.experts.{j}.w", 0)
    'h.{layer}.experts.{i}.w'
    """
    names = iter(HOLES)
    count = -1

    def name_hole(_: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"{{{_LAYER if count == layer else next(names)}}}"

    return re.sub(r"\{\w+\}", name_hole, pattern)


def _add_layer_key(pattern: str) -> str:
    """A name with one more key, the number of the layer, after the first.

    >>> _add_layer_key("layers.w")
    'layers.{layer}.w'
    """
    first, dot, suffix = pattern.partition(".")
    return f"{first}.{{{_LAYER}}}{dot}{suffix}"

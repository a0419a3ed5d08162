"""Links: which tensors become which, how their axes change, and what speaks against being certain of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from funcnet._typing import Shape
from funcnet.checkpoint._matching._assignment import match_kinds
from funcnet.checkpoint._matching._changes import UNCHANGED, AxesChange, Join, list_changes, list_joins, merged_shapes
from funcnet.checkpoint._matching._roles import TABLES
from funcnet.checkpoint._matching._units import FUSED_ROLES, KIND_OF, Leaf, Unit
from funcnet.checkpoint._matching._words import WRAPPERS, split_keys

_RECURRENT = re.compile(
    r"^(weight|bias)_(ih|hh)|recurrent_kernel$|^(lstm|gru|rnn)|(lstm|gru|rnn)(_cell)?$|^[WRB]$|_(W|R|B)$"
)
_ROTARY_PAIRS = frozenset({"wq", "wk"})


@dataclass(frozen=True)
class Link:
    """Tensors of the source that become tensors of the target.

    Attributes:
        sources, targets: names; several sources are fused, and one source is split into several targets.
        change: of the axes of a single tensor.
        join: how parts lie in the tensor that holds them all, where there are parts.
        doubt: why a person has to look at it; empty if nothing speaks against it.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    change: AxesChange = UNCHANGED
    join: Join | None = None
    doubt: str = ""

    @property
    def is_unchanged(self) -> bool:
        """Whether a tensor stays as it is, under its name."""
        return self.sources == self.targets and self.change == UNCHANGED and self.join is None


@dataclass(frozen=True)
class _Option:
    """The ways in which the tensors of a link may change, of which one has to be chosen."""

    source: Leaf
    target: Leaf
    role: str | None
    changes: tuple[AxesChange, ...]
    joins: tuple[Join, ...]


def make_links(chosen: Mapping[Unit, Unit]) -> list[Link]:
    """The links of units that become each other, tensor by tensor."""
    options: list[_Option] = []
    for source, target in chosen.items():
        role = source.role if source.role == target.role else None
        for source_kind, target_kind in match_kinds(source, target):
            leaf, other = source.leaves[source_kind], target.leaves[target_kind]
            is_single = len(leaf.shapes) == len(other.shapes) == 1
            changes = list_changes(leaf.shapes[0], other.shapes[0]) if is_single else ()
            joins = () if is_single else list_joins(*merged_shapes(leaf.shapes, other.shapes))
            options.append(_Option(leaf, other, role, changes, joins))
    votes = _Votes(options)
    return [_make_link(option, votes) for option in options]


class _Votes:
    """Whether matrices with some last keys are turned, by those whose shapes tell it."""

    def __init__(self, options: Iterable[_Option]) -> None:
        self._turned: Counter[object] = Counter()
        self._all: Counter[object] = Counter()
        for option in options:
            is_matrix = sum(size != 1 for size in option.source.shapes[0]) > 1 and option.role not in TABLES
            if len(option.changes) == 1 and is_matrix:
                for key in self._keys(option):
                    self._all[key] += 1
                    self._turned[key] += option.changes[0].permutation is not None
            elif len({join.permutation for join in option.joins}) == 1:
                for key in self._keys(option):
                    self._all[key] += 1
                    self._turned[key] += option.joins[0].permutation is not None

    @staticmethod
    def _keys(option: _Option) -> list[object]:
        """What stands for a matrix, from the nearest to the farthest."""
        source, target = split_keys(option.source.names[0]), split_keys(option.target.names[0])
        return [(*source[-2:], *target[-2:]), (source[-1], target[-1])]

    def find_vote(self, option: _Option) -> bool | None:
        """Whether most of the nearest matrices are turned; None where there are none, and no side has kernels."""
        for key in self._keys(option):
            if self._all[key]:
                return 2 * self._turned[key] > self._all[key]
        keys = [split_keys(leaf.names[0])[-1] for leaf in (option.source, option.target)]
        return True if sum("kernel" in key for key in keys) == 1 else None

    def has_turned(self, option: _Option) -> bool:
        """Whether any matrix with the same last keys is turned."""
        return any(self._turned[key] for key in self._keys(option))


def _make_link(option: _Option, votes: _Votes) -> Link:
    source, target = option.source, option.target
    names = source.names, target.names
    if option.joins:
        vote = votes.find_vote(option)
        join = next((join for join in option.joins if (join.permutation is not None) == vote), option.joins[0])
        merged = merged_shapes(source.shapes, target.shapes)
        before = merged[0][0] if merged[0] != source.shapes else None
        after = target.shapes[0] if merged[1] != target.shapes else None
        return Link(*names, AxesChange(before=before, after=after), join, "shapes do not tell the order of the parts")
    change = option.changes[0]
    doubts: list[str] = []
    if len(option.changes) > 1:
        is_turned = option.role not in TABLES and bool(votes.find_vote(option))
        fitting = [one for one in option.changes if (one.permutation is not None) == is_turned]
        if fitting:  # kernels of convolutions are turned one way to torch, and the other way from it
            change = fitting[-1 if "kernel" in split_keys(names[1][0])[-1] and len(fitting) > 1 else 0]
        has_one_name = split_keys(names[0][0])[-1] == split_keys(names[1][0])[-1]
        if change.permutation is not None or votes.has_turned(option) or not has_one_name:
            doubts.append("its shape does not tell whether it is turned")
    doubts += _name_doubts(option)
    return Link(*names, change=change, doubt="; ".join(doubts))


def _name_doubts(option: _Option) -> list[str]:
    """What the names of both sides say against moving the values as they are."""
    keys = [split_keys(leaf.names[0]) for leaf in (option.source, option.target)]
    modules = ["".join(key[-2:-1]) for key in keys]
    if _without_wrappers(keys[0]) == _without_wrappers(keys[1]):
        return []
    doubts: list[str] = []
    if len(_ROTARY_PAIRS & {*modules}) == 1 and option.role in ("attention.q", "attention.k"):
        doubts.append(
            "rotary layouts differ: wq and wk turn pairs of neighbours, others the halves of a head (interleave)"
        )
    if option.role in FUSED_ROLES and modules[0] != modules[1]:
        doubts.append("the order of the fused parts may differ")
    tails = [key[-3:] for key in keys]
    if any(_RECURRENT.search(part) for tail in tails for part in tail) and tails[0][-1] != tails[1][-1]:
        doubts.append(
            "the order of the gates differs: torch has i f g o and r z n, ONNX i o f c, Keras i f c o and z r h"
        )
    return doubts


def _without_wrappers(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if key not in WRAPPERS)


def settle_doubts(
    links: Sequence[Link], sources: Mapping[str, Shape], targets: Mapping[str, Shape], units: Mapping[str, Unit]
) -> list[Link]:
    """The links, with a doubt where another tensor could take the place.

    Args:
        links: the links.
        sources, targets: shapes by name on both sides.
        units: the units on both sides by the names of their tensors.
    """
    linked_sources = {name for link in links for name in link.sources}
    linked_targets = {name for link in links for name in link.targets}
    is_whole = linked_sources == set(sources) and linked_targets == set(targets)
    lonely = _find_lonely(links, sources, targets)
    settled: list[Link] = []
    for link in links:
        doubt = link.doubt
        if not doubt and not link.is_unchanged and not have_one_path(link):
            if link not in lonely:
                doubt = (
                    "by its name, shape and order" if link.change == UNCHANGED else "turned, by names, shapes and order"
                )
            else:
                roles = [units[names[0]].role for names in (link.sources, link.targets)]
                if None not in roles and roles[0] != roles[1]:
                    doubt = "the only ones of their shape, but their names say different things"
                elif not is_whole and (roles[0] is None or roles[0] != roles[1]):
                    doubt = "the only ones of their shape, but other tensors are left or missing"
        settled.append(replace(link, doubt=doubt))
    return settled


def have_one_path(link: Link) -> bool:
    """Whether the names are the same but for the keys of wrappers and the words of frameworks for weight and bias."""
    keys = [_without_wrappers(split_keys(names[0])) for names in (link.sources, link.targets)]
    kinds = [KIND_OF.get(key[-1], key[-1]) if key else "" for key in keys]
    return keys[0][:-1] == keys[1][:-1] and kinds[0] == kinds[1]


def _find_lonely(links: Sequence[Link], sources: Mapping[str, Shape], targets: Mapping[str, Shape]) -> set[Link]:
    """The links whose tensors are the only ones of their sizes on both sides, but for their numbers."""
    are_turned = any(link.change.permutation or (link.join and link.join.permutation) for link in links)
    forms_of_source, forms_of_target = _forms_by_size(sources, are_turned), _forms_by_size(targets, are_turned)
    lonely: set[Link] = set()
    for link in links:
        if len(link.sources) == len(link.targets) == 1:
            keys = [_size_key(sources[link.sources[0]], are_turned), _size_key(targets[link.targets[0]], are_turned)]
            is_alone = len(forms_of_source[keys[0]]) == 1 and len(forms_of_target[keys[1]]) == 1
            if is_alone and keys[0] == keys[1] and _numbers(link.sources[0]) == _numbers(link.targets[0]):
                lonely.add(link)
    return lonely


def _forms_by_size(shapes: Mapping[str, Shape], are_turned: bool) -> dict[object, set[str]]:
    """For each set of sizes the names with it, where numbers are left out."""
    forms: dict[object, set[str]] = {}
    for name, shape in shapes.items():
        forms.setdefault(_size_key(shape, are_turned), set()).add(NUMBER.sub("#", name))
    return forms


def _size_key(shape: Shape, are_turned: bool) -> tuple[int, ...]:
    """The sizes that a tensor has in both layouts, where some tensors may be turned."""
    sizes = tuple(size for size in shape if size != 1)
    return tuple(sorted(sizes)) if are_turned else sizes


NUMBER = re.compile(r"(?:(?<=[./_])|^)\d+(?=[./]|$)")
"""A number of a name: a key of its own, or the end of one after an underscore."""


def _numbers(name: str) -> list[str]:
    return NUMBER.findall(name)

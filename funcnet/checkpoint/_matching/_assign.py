"""Which of the possible links are taken: each tensor once, the likeliest first."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from funcnet.checkpoint._matching._families import Family
from funcnet.checkpoint._matching._links import TURNS, Link, links
from funcnet.checkpoint._matching._words import meanings


def assigned(sources: Sequence[Family], targets: Sequence[Family]) -> list[tuple[Link, str]]:
    """The links that are taken, in the order of the sources, each with what forces it; nothing where it is a guess."""
    possible = list(links(sources, targets))
    forced = [link for link in _forced(possible) if not link.unclear]
    taken = [(link, "the only ones of their shape") for link in forced]
    used = {family for link in forced for family in link.both}
    modules = _Modules()
    for link in forced:
        modules.take(link)
    places = (_places(sources), _places(targets))
    score = {link: link.score + 0.15 * _nearness(link, *places) for link in possible}
    # matrices before vectors, whose shapes tell less, but which lie beside the matrices
    for vectors in (False, True):
        rest = [link for link in possible if (len(link.sources[0].shape) < 2) == vectors]
        while rest := [link for link in rest if used.isdisjoint(link.both)]:
            best = max(rest, key=lambda link: score[link] + 0.4 * modules.agreement(link))
            used |= {*best.both}
            modules.take(best)
            taken.append((best, ""))
    taken.sort(key=lambda pair: pair[0].sources[0].position)
    return [(_decided(link, [other for other, _ in taken]), why) for link, why in taken]


class _Modules:
    """What is known of which module became which: tensors of one stay together."""

    def __init__(self) -> None:
        self._after: dict[str, str] = {}
        self._before: dict[str, str] = {}

    def take(self, link: Link) -> None:
        """Learn from a link that is taken."""
        before, after = _module(link.sources), _module(link.targets)
        self._after.setdefault(before, after)
        self._before.setdefault(after, before)

    def agreement(self, link: Link) -> int:
        """1 if another tensor went the same way, -1 if one went another way, else 0."""
        before, after = _module(link.sources), _module(link.targets)
        if self._after.get(before) == after:
            return 1
        return -1 if before in self._after or after in self._before else 0


@functools.cache
def _module(side: tuple[Family, ...]) -> str:
    """The path of the module that has these tensors."""
    return "+".join(family.pattern.replace("/", ".").rpartition(".")[0] for family in side)


def _forced(possible: Sequence[Link]) -> list[Link]:
    """Links of families that no other link has."""
    count = Counter(family for link in possible for family in link.both)
    return [link for link in possible if not link.joins and all(count[family] == 1 for family in link.both)]


def _places(given: Sequence[Family]) -> dict[Family, float]:
    """Where each family is in its checkpoint, from 0 to 1."""
    return {family: rank / max(1, len(given) - 1) for rank, family in enumerate(given)}


def _nearness(link: Link, before: dict[Family, float], after: dict[Family, float]) -> float:
    """1 where the first source is as far in its checkpoint as the first target is in its own."""
    return 1 - abs(before[link.sources[0]] - after[link.targets[0]])


def _decided(link: Link, taken: Sequence[Link]) -> Link:
    """A square matrix is turned if the other matrices of the same kind are."""
    if not link.unclear or link.joins:
        return link
    alike = [other for other in taken if not other.unclear and _kind(other) == _kind(link) and _matrices(other)]
    near = [other for other in alike if len(other.sources[0].counts) == len(link.sources[0].counts)] or alike
    turned = sum(other.turn is not None for other in near)
    told = 2 * turned > len(near) if near else _kind(link)[0] == "kernel"
    return replace(link, turn=TURNS[2][0] if told else None)


def _kind(link: Link) -> tuple[str, str]:
    """The last keys of both names."""
    return tuple(side[0].pattern.replace("/", ".").rsplit(".", 1)[-1] for side in (link.sources, link.targets))  # type: ignore[return-value]


def _matrices(link: Link) -> bool:
    """Whether it is of matrices that lookups do not need, for tables of embeddings are never turned."""
    dims = len(link.sources[0].shape) - (link.unstack is not None)
    tables = {"token", "position", "kind"}
    return dims == 2 and not tables & {*meanings(link.sources[0].pattern), *meanings(link.targets[0].pattern)}

"""Which of the possible links are taken: each tensor once, the likeliest first."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    places = (_places(sources), _places(targets))
    ranking = _Ranking({link: link.score + 0.15 * _nearness(link, *places) for link in possible})
    for link in forced:
        ranking.learn(link)
    # matrices before vectors, whose shapes tell less, but which lie beside the matrices
    for vectors in (False, True):
        for link in ranking.best(link for link in possible if (len(link.sources[0].shape) < 2) == vectors):
            if used.isdisjoint(link.both):
                used |= {*link.both}
                ranking.learn(link)
                taken.append((link, ""))
    taken.sort(key=lambda pair: pair[0].sources[0].position)
    return [(_decided(link, [other for other, _ in taken]), why) for link, why in taken]


class _Ranking:
    """Links by how likely they are, which changes as modules become known: the tensors of one stay together."""

    def __init__(self, scores: Mapping[Link, float]) -> None:
        self._scores = scores
        self._order = {link: number for number, link in enumerate(scores)}
        self._after: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._beside: dict[tuple[str, str], list[Link]] = {}
        for link in scores:
            for side in ("before", "after"):
                self._beside.setdefault((side, getattr(link, side)), []).append(link)
        self._heap: list[tuple[float, int, Link]] = []

    def learn(self, link: Link) -> None:
        """Note which module became which, and rank the links of both anew."""
        self._after.setdefault(link.before, link.after)
        self._before.setdefault(link.after, link.before)
        if self._heap:
            for other in (*self._beside["before", link.before], *self._beside["after", link.after]):
                heapq.heappush(self._heap, self._ranked(other))

    def best(self, given: Iterable[Link]) -> Iterator[Link]:
        """All links, the likeliest first, as far as is known when each is asked for."""
        self._heap = [self._ranked(link) for link in given]
        meant = {link for _, _, link in self._heap}
        heapq.heapify(self._heap)
        while self._heap:
            found = heapq.heappop(self._heap)
            if found[2] in meant and found == self._ranked(found[2]):
                meant.discard(found[2])
                yield found[2]

    def _ranked(self, link: Link) -> tuple[float, int, Link]:
        return -self._scores[link] - 0.4 * self._agreement(link), self._order[link], link

    def _agreement(self, link: Link) -> int:
        """1 if another tensor of the module went the same way, -1 if one went another way, else 0."""
        if self._after.get(link.before) == link.after:
            return 1
        return -1 if link.before in self._after or link.after in self._before else 0


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

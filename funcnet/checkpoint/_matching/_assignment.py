"""Chooses among the candidates: each tensor is used once, and the likeliest candidate comes first."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from funcnet.checkpoint._matching._candidates import PERMUTATIONS, Candidate, iter_candidates
from funcnet.checkpoint._matching._families import Family
from funcnet.checkpoint._matching._name_similarity import split_words


class Choice(NamedTuple):
    """A candidate that was chosen, and what leaves no other choice; the reason of a guess is empty."""

    candidate: Candidate
    reason: str


def choose_candidates(sources: Sequence[Family], targets: Sequence[Family]) -> list[Choice]:
    """The candidates to take, in the order of the sources."""
    candidates = list(iter_candidates(sources, targets))
    forced = [candidate for candidate in _find_forced(candidates) if not candidate.is_ambiguous]
    choices = [Choice(candidate, "the only ones of their shape") for candidate in forced]
    used = {family for candidate in forced for family in candidate.families}
    positions = {**_relative_positions(sources), **_relative_positions(targets)}
    scores = {candidate: candidate.score + 0.15 * _position_closeness(candidate, positions) for candidate in candidates}
    ranking = _Ranking(scores)
    for candidate in forced:
        ranking.learn_modules(candidate)
    # Matrices come before vectors: the shapes of vectors tell less, but they lie beside the matrices.
    for is_vector in (False, True):
        of_rank = [candidate for candidate in candidates if (len(candidate.sources[0].shape) < 2) == is_vector]
        for candidate in ranking.iter_best(of_rank):
            if used.isdisjoint(candidate.families):
                used |= {*candidate.families}
                ranking.learn_modules(candidate)
                choices.append(Choice(candidate, ""))
    choices.sort(key=lambda choice: choice.candidate.sources[0].position)
    chosen = [choice.candidate for choice in choices]
    return [Choice(_settle_transpose(candidate, chosen), reason) for candidate, reason in choices]


class _Ranking:
    """Candidates by how likely they are.

    The order changes as modules become known, because the tensors of one module stay together.
    """

    def __init__(self, scores: Mapping[Candidate, float]) -> None:
        self._scores = scores
        self._order = {candidate: number for number, candidate in enumerate(scores)}
        self._target_of: dict[str, str] = {}
        self._source_of: dict[str, str] = {}
        self._from_module: dict[str, list[Candidate]] = {}
        self._to_module: dict[str, list[Candidate]] = {}
        for candidate in scores:
            self._from_module.setdefault(candidate.source_module, []).append(candidate)
            self._to_module.setdefault(candidate.target_module, []).append(candidate)
        self._heap: list[tuple[float, int, Candidate]] = []

    def learn_modules(self, candidate: Candidate) -> None:
        """Note which module became which, and rank all candidates of both modules again."""
        self._target_of.setdefault(candidate.source_module, candidate.target_module)
        self._source_of.setdefault(candidate.target_module, candidate.source_module)
        if self._heap:
            neighbours = (*self._from_module[candidate.source_module], *self._to_module[candidate.target_module])
            for neighbour in neighbours:
                heapq.heappush(self._heap, self._heap_entry(neighbour))

    def iter_best(self, candidates: Iterable[Candidate]) -> Iterator[Candidate]:
        """The candidates, the likeliest first, by what is known when each is asked for."""
        self._heap = [self._heap_entry(candidate) for candidate in candidates]
        remaining = {candidate for _, _, candidate in self._heap}
        heapq.heapify(self._heap)
        while self._heap:
            entry = heapq.heappop(self._heap)
            candidate = entry[2]
            is_current = entry == self._heap_entry(candidate)  # a module may have become known since it was pushed
            if candidate in remaining and is_current:
                remaining.discard(candidate)
                yield candidate

    def _heap_entry(self, candidate: Candidate) -> tuple[float, int, Candidate]:
        return -self._scores[candidate] - 0.4 * self._module_agreement(candidate), self._order[candidate], candidate

    def _module_agreement(self, candidate: Candidate) -> int:
        """1 if another tensor of the module went to the same module, -1 if it went to a different one, else 0."""
        source_module, target_module = candidate.source_module, candidate.target_module
        if self._target_of.get(source_module) == target_module:
            return 1
        return -1 if source_module in self._target_of or target_module in self._source_of else 0


def _find_forced(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates whose families occur in no other candidate."""
    count = Counter(family for candidate in candidates for family in candidate.families)
    return [
        candidate
        for candidate in candidates
        if not candidate.joins and all(count[family] == 1 for family in candidate.families)
    ]


def _relative_positions(families: Sequence[Family]) -> dict[Family, float]:
    """The position of each family in its checkpoint, from 0 to 1."""
    return {family: rank / max(1, len(families) - 1) for rank, family in enumerate(families)}


def _position_closeness(candidate: Candidate, positions: Mapping[Family, float]) -> float:
    """How close the first source and the first target are in their checkpoints, from 0 to 1."""
    return 1 - abs(positions[candidate.sources[0]] - positions[candidate.targets[0]])


def _settle_transpose(candidate: Candidate, chosen: Sequence[Candidate]) -> Candidate:
    """The candidate; a square matrix is transposed if most other matrices with the same last keys are.

    Where there are no others, it is transposed if the source calls it "kernel".
    """
    if not candidate.is_ambiguous or candidate.joins:
        return candidate
    peers = [
        peer
        for peer in chosen
        if not peer.is_ambiguous and _last_keys(peer) == _last_keys(candidate) and _is_plain_matrix(peer)
    ]
    hole_count = len(candidate.sources[0].counts)
    peers = [peer for peer in peers if len(peer.sources[0].counts) == hole_count] or peers
    transposed = sum(peer.permutation is not None for peer in peers)
    is_transposed = 2 * transposed > len(peers) if peers else _last_keys(candidate)[0] == "kernel"
    return replace(candidate, permutation=PERMUTATIONS[2][0] if is_transposed else None)


def _last_keys(candidate: Candidate) -> tuple[str, str]:
    """The last keys of the names of the first source and the first target."""
    source, target = candidate.sources[0].pattern, candidate.targets[0].pattern
    return re.split(r"[./]", source)[-1], re.split(r"[./]", target)[-1]


def _is_plain_matrix(candidate: Candidate) -> bool:
    """Whether the candidate is of matrices other than embeddings, whose tables no framework transposes."""
    source, target = candidate.sources[0], candidate.targets[0]
    dims = len(source.shape) - (candidate.unstack_hole is not None)
    table_words = {"token", "position", "kind"}
    return dims == 2 and not table_words & {*split_words(source.pattern), *split_words(target.pattern)}

"""Which unit of the source becomes which of the target: chosen by names, order and neighbours, all at once.

Two units can become each other if the shapes of their tensors allow it. How likely that is follows from their names
first. Then, in rounds, from what is around them: whether their neighbours became neighbours, and whether the other
tensors of the modules that contain them moved together. Each round chooses anew, so that a first guess that does not
fit the others is taken back.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from funcnet.checkpoint._matching._changes import list_changes, list_joins, merged_shapes
from funcnet.checkpoint._matching._units import Leaf, Unit
from funcnet.checkpoint._matching._words import find_last_word

_ROUNDS = 6
_MOST_EXCHANGES = 4
_BRANCHES = (frozenset({"encoder", "decoder"}), frozenset({"vision", "text"}))
"""Words of which a tensor that has one does not become a tensor that has another."""
_NUMBER = re.compile(r"\d+(?![\dd])")
_LOWEST = -0.5  # pairs below this score are nothing that a person would want to look at


def assign_units(sources: Sequence[Unit], targets: Sequence[Unit]) -> dict[Unit, Unit]:
    """The target of each source that has one."""
    pairs = _list_pairs(sources, targets)
    words = _WordWeights(sources, targets)
    ranks = {**_rank_in_class(sources), **_rank_in_class(targets)}
    numbers = {**_rank_numbers(sources), **_rank_numbers(targets)}
    base = {
        (source, target): _score_names(source, target, words)
        + _score_order(source, target, ranks)
        + 1.0 * _score_numbers(numbers[source], numbers[target])
        for source, target in pairs
    }
    chosen = _choose(base)
    for _ in range(_ROUNDS):
        context = _Context(chosen, sources, targets)
        scores = {pair: score + context.score(*pair) for pair, score in base.items()}
        previous, chosen = chosen, _choose(scores)
        if chosen == previous:
            break
    return chosen


def _list_pairs(sources: Sequence[Unit], targets: Sequence[Unit]) -> list[tuple[Unit, Unit]]:
    """All pairs whose tensors have shapes that can become each other."""
    targets_by_size: dict[int, list[Unit]] = {}
    for target in targets:
        targets_by_size.setdefault(target.leaves[target.main_kind].size, []).append(target)
    return [
        (source, target)
        for source in sources
        for target in targets_by_size.get(source.leaves[source.main_kind].size, ())
        if match_kinds(source, target)
    ]


def match_kinds(source: Unit, target: Unit) -> list[tuple[str, str]]:
    """The kinds of tensors that become each other; none if the units cannot."""
    if source.main_kind not in target.leaves or target.main_kind not in source.leaves:
        kinds = [(source.main_kind, target.main_kind)]
        is_alone = "parameter" in kinds[0] and (len(source.leaves) == 1 or len(target.leaves) == 1)
        return kinds if is_alone and _is_fit(source.leaves[kinds[0][0]], target.leaves[kinds[0][1]]) else []
    common = [kind for kind in source.leaves if kind in target.leaves]
    if source.role == target.role == "attention.qkv" or not any(
        _is_fit(source.leaves[kind], target.leaves[kind]) for kind in common
    ):
        common = [kind for kind in common if _is_fit(source.leaves[kind], target.leaves[kind])]
    return [(kind, kind) for kind in common] if all(_is_fit(source.leaves[k], target.leaves[k]) for k in common) else []


def _is_fit(source: Leaf, target: Leaf) -> bool:
    if len(source.shapes) == len(target.shapes) == 1:
        return bool(list_changes(source.shapes[0], target.shapes[0]))
    if len(source.shapes) == len(target.shapes):
        return source.shapes == target.shapes
    return bool(list_joins(*merged_shapes(source.shapes, target.shapes)))


def _score_names(source: Unit, target: Unit, words: _WordWeights) -> float:
    """How well the names agree: the roles, the words, the last keys, and the kinds of tensors."""
    score = 2 * words.similarity(source, target)
    if source.role is not None and target.role is not None:
        score += 2 if source.role == target.role else -2
    source_keys, target_keys = source.parts.keys, target.parts.keys
    score += 0.3 * (source_keys[-1:] == target_keys[-1:])
    score += 1.0 * (source.path == target.path) + 2.0 * (source.leaves == target.leaves)
    if source.main_kind == target.main_kind:
        score -= 0.2 * len((set(source.leaves) ^ set(target.leaves)) - {"num_batches_tracked"})
    for branch in _BRANCHES:
        ways = branch & source.parts.words, branch & target.parts.words
        score -= 2 * bool(ways[0] and ways[1] and not ways[0] & ways[1])
        score -= 0.8 * len((ways[0] ^ ways[1]) & words.on_both_sides)
    return score


class _WordWeights:
    """Weights of words: those that many names have tell little."""

    def __init__(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        left, right = (frozenset[str]().union(*(unit.parts.words for unit in side)) for side in (sources, targets))
        self.on_both_sides = left & right
        units = [*sources, *targets]
        counts = Counter(word for unit in units for word in unit.parts.words)
        self._weights = {word: 0.1 + math.log(len(units) / count) for word, count in counts.items()}

    def similarity(self, source: Unit, target: Unit) -> float:
        """How many of the words two names share, from 0 to 1."""
        left, right = source.parts.words, target.parts.words
        shared = sum(self._weights[word] for word in left & right)
        total = sum(self._weights[word] for word in left) + sum(self._weights[word] for word in right)
        return 2 * shared / total if total else 0.0


def _rank_in_class(units: Sequence[Unit]) -> dict[Unit, tuple[int, int, float]]:
    """Of each unit its number among those of its sizes, how many of these there are, and its place from 0 to 1."""
    classes: dict[object, list[Unit]] = {}
    for unit in units:
        key = tuple(
            sorted((kind == "bias", leaf.size) for kind, leaf in unit.leaves.items() if kind != "num_batches_tracked")
        )
        classes.setdefault(key, []).append(unit)
    last = max(1, len(units) - 1)
    return {
        unit: (rank, len(members), unit.position / last)
        for members in classes.values()
        for rank, unit in enumerate(members)
    }


def _score_order(source: Unit, target: Unit, ranks: Mapping[Unit, tuple[int, int, float]]) -> float:
    """How well the places agree: among the units of one shape, and in the whole."""
    rank, count, place = ranks[source]
    target_rank, target_count, target_place = ranks[target]
    score = -0.6 * abs(place - target_place)
    if count == target_count:
        score += 0.4 * (rank == target_rank) - 0.6 * abs(rank - target_rank) / count
    return score


class _Number(NamedTuple):
    """A number in a path: what it counts, its rank among the numbers in its place, and how many of these there are."""

    word: str
    rank: int
    size: int


def _rank_numbers(units: Sequence[Unit]) -> dict[Unit, list[_Number]]:
    """The numbers of each path that are not alone in their place."""
    numbers_at: dict[str, set[int]] = {}
    places: dict[Unit, list[tuple[str, int]]] = {}
    for unit in units:
        places[unit] = [(unit.path[: match.start()], int(match[0])) for match in _NUMBER.finditer(unit.path)]
        for prefix, number in places[unit]:
            numbers_at.setdefault(prefix, set()).add(number)
    rank_at = {prefix: {n: rank for rank, n in enumerate(sorted(numbers))} for prefix, numbers in numbers_at.items()}
    return {
        unit: [
            _Number(find_last_word(prefix), rank_at[prefix][number], len(rank_at[prefix]))
            for prefix, number in found
            if len(rank_at[prefix]) > 1
        ]
        for unit, found in places.items()
    }


def _score_numbers(source: Sequence[_Number], target: Sequence[_Number]) -> float:
    """Whether layers have the same ranks in lists of the same lengths: from -1 to 1, and 0 if no lists are the same."""
    agreements: list[int] = []
    start = 0
    for number in source:
        for place in range(start, len(target)):
            other = target[place]
            if number.size == other.size and (number.word == other.word or len(source) == len(target)):
                agreements.append(1 if other.rank == number.rank else -1)
                start = place + 1
                break
    return sum(agreements) / len(agreements) if agreements else 0.0


def _choose(scores: Mapping[tuple[Unit, Unit], float]) -> dict[Unit, Unit]:
    """One target for each source: the likeliest pairs first, and then two change places if that is likelier."""
    chosen: dict[Unit, Unit] = {}
    taken: set[Unit] = set()
    for (source, target), score in sorted(scores.items(), key=lambda item: -item[1]):
        if score >= _LOWEST and source not in chosen and target not in taken:
            chosen[source] = target
            taken.add(target)
    rivals: dict[int, list[Unit]] = {}
    for source in chosen:
        rivals.setdefault(source.leaves[source.main_kind].size, []).append(source)
    for sources in rivals.values():
        for _ in range(_MOST_EXCHANGES):
            exchanges = [_exchange(*pair, chosen, scores) for pair in itertools.combinations(sources, 2)]
            if not any(exchanges):
                break
    return chosen


def _exchange(first: Unit, second: Unit, chosen: dict[Unit, Unit], scores: Mapping[tuple[Unit, Unit], float]) -> bool:
    """Let two sources change their targets if both together are likelier then."""
    crossed = scores.get((first, chosen[second])), scores.get((second, chosen[first]))
    if crossed[0] is None or crossed[1] is None:
        return False
    if crossed[0] + crossed[1] <= scores[first, chosen[first]] + scores[second, chosen[second]] + 1e-9:
        return False
    chosen[first], chosen[second] = chosen[second], chosen[first]
    return True


class _Context:
    """What is around units, in the light of a choice."""

    def __init__(self, chosen: Mapping[Unit, Unit], sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        self._chosen = chosen
        self._sources, self._targets = sources, targets
        self._together: Counter[tuple[str, str]] = Counter()
        self._in_source: Counter[str] = Counter()
        self._in_target: Counter[str] = Counter()
        for source, target in chosen.items():
            self._in_source.update(source.ancestors)
            self._in_target.update(target.ancestors)
            self._together.update((above, other) for above in source.ancestors for other in target.ancestors)
        self._agreements: dict[tuple[str, str], float] = {}

    def score(self, source: Unit, target: Unit) -> float:
        """How well what is around a source agrees with what is around a target."""
        score = 0.0
        for step in (-1, 1):
            neighbour = self._neighbour(self._sources, source.position + step)
            other = self._neighbour(self._targets, target.position + step)
            if neighbour is None or other is None:
                score += 0.7 * (neighbour is other)
            else:
                score += 0.7 * (self._chosen.get(neighbour) is other)
        return score + 1.5 * self._score_ancestors(source, target)

    @staticmethod
    def _neighbour(units: Sequence[Unit], position: int) -> Unit | None:
        return units[position] if 0 <= position < len(units) else None

    def _score_ancestors(self, source: Unit, target: Unit) -> float:
        """From 0 to 1: whether the modules that contain the source became those that contain the target."""
        if not source.ancestors or not target.ancestors:
            return 0.5 * (not source.ancestors and not target.ancestors)
        forward = [max(self._agreement(above, other) for other in target.ancestors) for above in source.ancestors]
        back = [max(self._agreement(above, other) for above in source.ancestors) for other in target.ancestors]
        return (_mean_of_near(forward) + _mean_of_near(back)) / 2

    def _agreement(self, above: str, other: str) -> float:
        """How many of the units below two modules became each other, from 0 to 1."""
        key = above, other
        if key not in self._agreements:
            most = max(self._in_source[above], self._in_target[other])
            self._agreements[key] = self._together[key] / most if most else 0.0
        return self._agreements[key]


def _mean_of_near(values: Sequence[float]) -> float:
    """The mean of values, each with twice the weight of the next."""
    weights = [0.5**number for number in range(len(values))]
    return sum(map(float.__mul__, weights, map(float, values))) / sum(weights)

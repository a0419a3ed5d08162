"""Rules for a part of a checkpoint: other rules within it, and numbers in names that stand for names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from funcnet.checkpoint._errors import RuleError, truncated_list
from funcnet.checkpoint._nodes import Node
from funcnet.checkpoint.rules._names import rename_all
from funcnet.checkpoint.rules._patterns import Pattern
from funcnet.checkpoint.rules._rule import Rule, State, apply_each


@dataclass(frozen=True)
class Within(Rule):
    """Apply rules to what one hole of a pattern stands for, as to the names below ``model``.

    So rules that are about a model fit a training checkpoint, and the moments of an optimizer: under
    ``"optimizer.{name**}.exp_avg"`` they rename and lay out each moment as its param.

    Args:
        names: pattern with one hole, which stands for the names that the rules are about.
        rules: the rules.
        optional: whether it is allowed that no tensor matches.

    >>> from funcnet.checkpoint import Rename
    >>> Within("model.{name**}", [Rename("a", "b")]).inverse().rules
    (Rename(source='b', target='a', optional=False),)
    """

    names: str
    rules: tuple[Rule, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if len(Pattern(self.names).holes) != 1:
            raise RuleError(f"{self.names!r} must have one hole, for the names that the rules are about.")

    def apply(self, state: State) -> State:
        pattern = Pattern(self.names)
        (hole,) = pattern.holes
        inner_names = {name: holes[hole] for name in state.names if (holes := pattern.match(name)) is not None}
        if not inner_names:
            return self.unchanged_if_optional(state, self.names)
        crossing = [
            f"{alias!r} is tied to {owner!r}"
            for alias, owner in state.aliases.items()
            if (alias in inner_names) != (owner in inner_names)
        ]
        if crossing:
            raise RuleError(f"{self.names!r} parts tensors from their ties:{truncated_list(crossing)}")
        inner = replace(
            state,
            tensors={inner_names[name]: node for name, node in state.tensors.items() if name in inner_names},
            aliases={
                inner_names[alias]: inner_names[to] for alias, to in state.aliases.items() if alias in inner_names
            },
            claims=(),
            lost={},
        )
        inner = self._apply_rules(inner)

        new_names = {name: pattern.format({hole: name}) for name in inner.names}
        rest = [name for name in state.names if name not in inner_names]
        duplicates = sorted({*new_names.values()} & {*rest})
        if duplicates:
            raise RuleError(f"these names would be there twice:{truncated_list(list(map(repr, duplicates)))}")
        tensors: dict[str, Node] = {}
        new_tensors = {new_names[name]: node for name, node in inner.tensors.items()}
        for name, node in state.tensors.items():
            if name not in inner_names:
                tensors[name] = node
            else:  # all of them where the first was
                tensors |= new_tensors
                new_tensors = {}
        aliases = {alias: owner for alias, owner in state.aliases.items() if alias not in inner_names}
        return replace(
            inner,
            tensors=tensors,
            aliases={**aliases, **{new_names[alias]: new_names[owner] for alias, owner in inner.aliases.items()}},
            claims=(*state.claims, *inner.claims),
            lost={**state.lost, **{pattern.format({hole: name}): node for name, node in inner.lost.items()}},
        )

    def _apply_rules(self, state: State) -> State:
        states = apply_each(state, self.rules)
        for number in range(1, len(self.rules) + 1):
            try:
                state = next(states)
            except RuleError as error:  # noqa: PERF203  the message needs the number of the rule
                raise RuleError(f"its rule {number}: {error}") from None
        return state

    def inverse(self) -> Within:
        return Within(self.names, tuple(rule.inverse() for rule in reversed(self.rules)), self.optional)


@dataclass(frozen=True)
class Label(Rule):
    """Put names in the place of numbers, as for the state of an optimizer of torch, which counts its params.

    Args:
        source: pattern with a hole for the number, as ``"optimizer.state.{number}.{key}"``.
        target: pattern with a hole for the name instead, as ``"optimizer.state.{name**}.{key}"``.
        labels: the names, in the order of the numbers.
        groups: how many of them each group has, where the numbers are in groups.
        group_list: the name of the value that lists the groups, as ``"optimizer.param_groups"``.
        optional: whether it is allowed that no tensor matches.

    >>> Label("state.{n}.{key}", "state.{name**}.{key}", ["fc.weight", "fc.bias"]).inverse().labels
    ('fc.weight', 'fc.bias')
    """

    source: str
    target: str
    labels: tuple[str, ...]
    groups: tuple[int, ...] = ()
    group_list: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _prepare_labels(self, self.source, self.target)

    def apply(self, state: State) -> State:
        return _replace_holes(state, self, (self.source, self.target), dict(_numbered(self.labels)))

    def convert_values(self, values: dict[str, Any]) -> dict[str, Any]:
        return _list_groups(values, self, list(self.labels))

    def inverse(self) -> Number:
        return Number(self.target, self.source, self.labels, self.groups, self.group_list, self.optional)


@dataclass(frozen=True)
class Number(Rule):
    """Put numbers in the place of names; inverse of :class:`Label`, with the same labels.

    >>> Number("{name}", "{i}", ["weight", "bias"]).inverse()
    Label(source='{i}', target='{name}', labels=('weight', 'bias'), groups=(), group_list=None, optional=False)
    """

    source: str
    target: str
    labels: tuple[str, ...]
    groups: tuple[int, ...] = ()
    group_list: str | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _prepare_labels(self, self.target, self.source)

    def apply(self, state: State) -> State:
        numbers = {label: number for number, label in _numbered(self.labels)}
        return _replace_holes(state, self, (self.source, self.target), numbers)

    def convert_values(self, values: dict[str, Any]) -> dict[str, Any]:
        return _list_groups(values, self, list(range(len(self.labels))))

    def inverse(self) -> Label:
        return Label(self.target, self.source, self.labels, self.groups, self.group_list, self.optional)


def _numbered(labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((str(number), label) for number, label in enumerate(labels))


def _prepare_labels(rule: Label | Number, numbered: str, labelled: str) -> None:
    object.__setattr__(rule, "labels", tuple(rule.labels))
    object.__setattr__(rule, "groups", tuple(rule.groups))
    _own_holes(numbered, labelled)
    twice = [repr(label) for label, count in Counter(rule.labels).items() if count > 1]
    if twice:
        raise RuleError(f"these labels are there twice: {', '.join(twice)}.")
    if rule.groups and sum(rule.groups) != len(rule.labels):
        raise RuleError(f"groups of {list(rule.groups)} are not those of {len(rule.labels)} labels.")


def _own_holes(first: str, second: str) -> tuple[str, str]:
    """The one hole that each of two patterns has and the other has not."""
    first_holes, second_holes = set(Pattern(first).holes), set(Pattern(second).holes)
    own = first_holes - second_holes, second_holes - first_holes
    if len(own[0]) != 1 or len(own[1]) != 1:
        raise RuleError(f"{first!r} and {second!r} must differ in one hole: a number, and a name.")
    return own[0].pop(), own[1].pop()


def _replace_holes(state: State, rule: Rule, patterns: tuple[str, str], new_texts: Mapping[str, str]) -> State:
    """The state with new texts in one hole of the names that match the first of two patterns."""
    source, target = map(Pattern, patterns)
    old_hole, new_hole = _own_holes(*patterns)
    new_names: dict[str, str] = {}
    problems: list[str] = []
    for name in state.names:
        holes = source.match(name)
        if holes is None:
            continue
        if holes[old_hole] not in new_texts:
            problems.append(f"{name!r}: there is no label for {holes[old_hole]!r}")
            continue
        new_names[name] = target.format({**holes, new_hole: new_texts[holes[old_hole]]})
    if problems:
        raise RuleError(f"these tensors do not fit the labels:{truncated_list(problems)}")
    if not new_names:
        return rule.unchanged_if_optional(state, patterns[0])
    return rename_all(state, {name: new_names.get(name, name) for name in state.names})


def _list_groups(values: dict[str, Any], rule: Label | Number, entries: list[Any]) -> dict[str, Any]:
    """The values with the new entries in the groups of an optimizer."""
    groups = values.get(rule.group_list or "")
    if not isinstance(groups, (list, tuple)) or not all(isinstance(group, Mapping) for group in groups):
        return values
    sizes = rule.groups or (len(entries),)
    if len(sizes) != len(groups):
        raise RuleError(f"{rule.group_list!r} lists {len(groups)} groups, and the rule has {len(sizes)}.")
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    new_groups = []
    for group, start, size in zip(groups, starts, sizes, strict=True):
        names = {"param_names": list(rule.labels[start : start + size])} if "param_names" in group else {}
        new_groups.append({**group, **names, "params": entries[start : start + size]})
    return {**values, str(rule.group_list): new_groups}
